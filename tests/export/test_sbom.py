"""The SBOM in every bundle: CycloneDX, as its own strict validator has it, and the same bytes each time."""

import getpass
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from purify_edge.bundle.export_report import exported as told
from purify_edge.bundle.manifest import Manifest
from purify_edge.bundle.reader import Bundle
from purify_export.export import ExportResult
from purify_export.publish.sbom import FILE, sbom_of
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import licence_of


def read_sbom(bundle: Bundle) -> dict[str, Any]:
    assert bundle.manifest.sbom is not None
    assert bundle.manifest.sbom.path == FILE
    content: dict[str, Any] = json.loads(bundle.read(bundle.manifest.sbom))
    return content


def by_reference(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {part["bom-ref"]: part for part in content["components"]}


def properties(part: dict[str, Any]) -> dict[str, str]:
    return {entry["name"].removeprefix("purify-edge:"): entry["value"] for entry in part["properties"]}


@pytest.fixture
def manifest(bundle_path: Path) -> Manifest:
    return Bundle.open(bundle_path).manifest


def test_an_export_writes_one_that_cyclonedx_accepts(exported: ExportResult) -> None:
    bundle = Bundle.open(exported.bundle.path)
    text = (bundle.path / FILE).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    parts = by_reference(read_sbom(bundle))
    for model in bundle.manifest.models:
        part = parts[f"{model.role}.{model.precision}"]
        assert part["type"] == "machine-learning-model"
        assert part["hashes"] == [{"alg": "SHA-256", "content": model.file.sha256}]
    assert parts["golden.npz"]["hashes"][0]["content"] == bundle.manifest.golden.file.sha256
    assert {"dataset", "licenses"}.isdisjoint(parts["purifier.fp32"])  # networks of which nothing is known
    for word in (str(Path.home()), str(bundle.path.parent), f'"{getpass.getuser()}"'):
        assert word not in text


def test_the_bundle_that_ships_tells_where_it_came_from() -> None:
    bundle = Bundle.open("fashion-mnist")
    content = read_sbom(bundle)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(content)) is None
    parts = by_reference(content)
    for model in bundle.manifest.models:
        part = parts[f"{model.role}.{model.precision}"]
        assert part["hashes"][0]["content"] == model.file.sha256
        assert part["licenses"] == [{"expression": "Apache-2.0"}]
        known = properties(part)
        assert (known["recipe"], known["seed"], known["base"]) == ("fashion-mnist", "0", "fashion-mnist")
        assert len(known["data_sha256"]) == 64
    assert parts["dataset"]["licenses"] == [{"expression": "MIT"}]
    metrics = parts["defended.fp32"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    rows = [row for row in told(bundle).accuracy if row.defended]
    assert [float(row["value"]) for row in metrics] == [row.accuracy for row in rows]
    assert any(row["slice"].startswith("white-box, attack: PGD-20") for row in metrics)
    assert content["metadata"]["timestamp"] == bundle.manifest.created


def test_what_made_it_is_named_with_version_and_licence(exported: ExportResult) -> None:
    parts = by_reference(read_sbom(exported.bundle))
    for name, version in exported.bundle.manifest.producer.items():
        found = next(part for part in parts.values() if part["name"] == name)
        assert (found["version"], found["scope"]) == (version, "excluded")
        assert found["purl"].startswith(f"pkg:pypi/{name}@")
        assert found["licenses"]


def test_the_same_manifest_gives_the_same_bytes_and_another_file_another_number(manifest: Manifest) -> None:
    first = sbom_of(manifest, licence="MIT")
    assert sbom_of(manifest, licence="MIT") == first
    changed = msgspec.structs.replace(manifest.models[0].file, sha256="0" * 64)
    models = (msgspec.structs.replace(manifest.models[0], file=changed), *manifest.models[1:])
    other = sbom_of(msgspec.structs.replace(manifest, models=models), licence="MIT")
    assert json.loads(other)["serialNumber"] != json.loads(first)["serialNumber"]


def test_every_reference_is_to_something_that_is_there(exported: ExportResult) -> None:
    content = read_sbom(exported.bundle)
    there = {"bundle", *by_reference(content)}
    assert len(there) == len(content["components"]) + 1
    for row in content["dependencies"]:
        assert {row["ref"], *row["dependsOn"]} <= there


def test_a_served_graph_is_made_of_purifier_and_classifier(manifest: Manifest) -> None:
    served = msgspec.structs.replace(manifest.models[0], role="served")
    text = sbom_of(msgspec.structs.replace(manifest, models=(*manifest.models, served))).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    parts = {row["ref"]: row["dependsOn"] for row in json.loads(text)["dependencies"]}
    assert parts["served.fp32"] == parts["defended.fp32"] == ["purifier.fp32", "classifier.fp32"]


def test_a_classifier_of_the_users_is_not_told(manifest: Manifest) -> None:
    run = manifest.provenance["run"] | {"classifier": {"factory": "/home/somebody/secret.onnx"}, "base": None}
    text = sbom_of(msgspec.structs.replace(manifest, provenance={"run": run})).decode()
    assert "somebody" not in text
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_only_the_pairs_that_ship_have_a_licence_that_we_know(shipped: RunFolder, run_path: Path) -> None:
    assert licence_of(shipped) == "Apache-2.0"
    assert licence_of(RunFolder(run_path)) == ""
