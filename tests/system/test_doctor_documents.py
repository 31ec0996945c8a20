"""What the documents and the project say of devices is what the doctor knows of them."""

import json
import re
from dataclasses import fields

import pytest

from helpers.project import PROJECT, REPOSITORY
from purify_edge.doctor.examine import PROBES
from purify_edge.doctor.findings import SCHEMA_VERSION, EngineVerdict, Finding, Status
from purify_edge.doctor.jetson import JETPACKS
from purify_edge.doctor.packages import DISTRIBUTIONS, OLDEST_ONNXRUNTIME
from purify_edge.doctor.system import NEWEST, OLDEST
from purify_edge.doctor.table import TITLES
from purify_edge.engines.registry import ENGINES

DOCTOR = (REPOSITORY / "docs/doctor.md").read_text()
JETSON = (REPOSITORY / "docs/jetson.md").read_text()


def table(text: str, first: str) -> list[list[str]]:
    """The rows of the table whose first heading is `first`."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def test_every_area_is_described_in_the_order_of_the_report() -> None:
    areas = [area for row in table(DOCTOR, "area") for area in re.findall(r"`(\w+)`", row[0])]
    assert areas == list(PROBES) == list(TITLES)


def test_the_json_in_the_document_has_the_keys_of_the_real_one() -> None:
    found = re.search(r"```json\n(.*?)```", DOCTOR, re.DOTALL)
    assert found
    example = json.loads(found.group(1))
    assert example["schema_version"] == SCHEMA_VERSION
    assert list(example["engines"][0]) == [field.name for field in fields(EngineVerdict)]
    assert list(example["findings"][0]) == [field.name for field in fields(Finding)]
    for status in Status:
        assert f"`{status.value}`" in DOCTOR


@pytest.mark.parametrize("row", table(JETSON, "JetPack"), ids=lambda row: row[0])
def test_the_table_of_jetpacks_is_the_doctors(row: list[str]) -> None:
    names = [name.strip() for name in row[0].partition("(")[0].split(",")]
    known = [jetpack for jetpack in JETPACKS if jetpack.name in names]
    assert [jetpack.name for jetpack in known] == names
    for jetpack in known:
        assert [jetpack.python, jetpack.cuda, jetpack.tensorrt] == row[2:5]
        assert row[1].startswith(f"R{jetpack.l4t[0]}")
        assert (row[5] == "not supported") != jetpack.is_supported


def test_the_doctor_expects_the_versions_that_the_project_does() -> None:
    assert PROJECT["requires-python"] == f">={dotted(OLDEST)}"
    pythons = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert (pythons[0], pythons[-1]) == (dotted(OLDEST), dotted(NEWEST))
    for extra in ("cpu", "gpu"):
        assert PROJECT["optional-dependencies"][extra][0].endswith(f">={dotted(OLDEST_ONNXRUNTIME)}")


def test_the_remedies_name_extras_that_exist() -> None:
    source = (REPOSITORY / "runtime/purify_edge/doctor/packages.py").read_text()
    named = set(re.findall(r"purify-edge\[(\w+)\]", source)) | {row.extra for row in ENGINES.values()}
    assert {"tensorrt", "cpu"} <= named <= set(PROJECT["optional-dependencies"])


def test_every_engine_has_its_packages() -> None:
    assert set(DISTRIBUTIONS) == set(ENGINES)
