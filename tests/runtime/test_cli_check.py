import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.fixtures import Run
from helpers.refusals import refusal

FP16 = ("--engine", "onnxruntime", "--precision", "fp16")
FP32 = ("--engine", "onnxruntime", "--precision", "fp32")
LIMITS = ("--min-agreement", "--max-accuracy-drop", "--max-latency-ms")


def test_a_good_bundle_passes_and_shows_its_tables(run: Run, bundle_path: Path) -> None:
    code, out, err = run("purify-check", bundle_path, "--rounds", 3)
    assert code == 0, err
    assert "Parity with PyTorch" in out
    assert "Percentiles in ms a batch, 3 interleaved calls" in out
    assert re.fullmatch(r"parity passed: All \d+ limits hold: .*, compared with PyTorch\.", out.splitlines()[-1])
    assert "adversarial 256 99.2 (97.2–99.8) 1.000" in " ".join(out.split())  # noqa: RUF001
    assert "…" not in out  # nothing is cut off


def test_json_goes_to_standard_output_alone(run: Run, few_images: Path) -> None:
    code, out, err = run("purify-check", few_images, "--json", "--rounds", 2, *FP16)
    assert code == 0
    report = json.loads(out)
    assert report["passed"] is True
    assert {row["precision"] for row in report["parity"]} == {"fp16"}
    of_exports = {"kept", "attempts", "diverging", "accuracy", "curve", "suspicion", "plan", "energy"}
    assert set(report) == {"environment", "parity", "latency", "checks", "passed", "not_checked"} | of_exports
    assert "parity: onnxruntime, fp16" in err


def test_a_broken_limit_is_named_and_reported_and_ends_with_1(run: Run, few_images: Path, tmp_path: Path) -> None:
    path, limit = tmp_path / "report.html", "median latency in ms, onnxruntime fp32 pipeline, batch 1"
    options = ("--rounds", 3, *FP32, "--max-latency-ms", "0.000001", "--report", path)
    code, out, _ = run("purify-check", few_images, *options)
    assert code == 1
    assert "FAILED" in out
    assert f"✗ {limit}" in " ".join(out.split())
    page = path.read_text()
    assert "✗ Failed" in page
    assert page.index("Broken limits") < page.index("median latency in ms") < page.index("What was not checked")


def test_limits_that_are_just_kept_pass(run: Run, few_images: Path) -> None:
    options = ("--max-accuracy-drop", "0", "--min-agreement", "1", "--max-latency-ms", "1e6")
    assert run("purify-check", few_images, "--rounds", 3, *FP32, *options)[0] == 0


def test_a_model_under_the_name_of_another_precision_shows(run: Run, edit_manifest: Any) -> None:
    def swap(manifest: dict[str, Any]) -> None:
        for model in manifest["models"]:
            if model["role"] == "classifier":
                model["precision"] = {"fp32": "fp16", "fp16": "fp32"}[model["precision"]]

    code, out, _ = run("purify-check", edit_manifest(swap), "--rounds", 0, "--json", *FP32)
    assert code == 1
    broken = {check["name"] for check in json.loads(out)["checks"] if not check["passed"]}
    assert {f"relative error, onnxruntime fp32 {role} clean" for role in ("classifier", "pipeline")} <= broken
    assert not {name for name in broken if "defended" in name or "purifier" in name}


def test_reports_in_every_format_tell_of_this_device(run: Run, few_images: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"report{suffix}" for suffix in (".html", ".md", ".json")]
    options = [part for path in paths for part in ("--report", path)]
    code, out, err = run("purify-check", few_images, "--json", "--rounds", 2, *FP16, *options)
    assert code == 0, err
    page, text, report = (path.read_text() for path in paths)
    assert report == out
    assert "<title>Parity passed: fashion-mnist</title>" in page
    assert page.count("data:image/png;base64,") == 3 * 8
    assert "as onnxruntime fp16 sees them" in page
    assert "**✓ Parity passed.**" in text
    for written in (page, text):
        assert "the bundle has these models; the check did not include them" in written
        assert "white-box" in written  # from the bundle's own report
    rows = json.loads(report)["accuracy"]
    assert {"clean", "grey-box", "white-box"} <= {row["threat"] for row in rows}


def test_a_file_that_exists_is_overwritten_by_force_only(run: Run, few_images: Path, tmp_path: Path) -> None:
    notes = tmp_path / "mine.md"
    notes.write_text("my notes")
    command = ("purify-check", few_images, "--rounds", 0, *FP32, "--report", notes)
    code, _, err = run(*command)
    assert (code, notes.read_text()) == (2, "my notes")
    assert "parity:" not in err
    assert run(*command, "--force")[0] == 0
    assert notes.read_text().startswith("# fashion")


def test_what_only_the_exporter_knows_is_checked_before_it_is_read(run: Run, edit_manifest: Any) -> None:
    def replace(manifest: dict[str, Any]) -> None:
        manifest["report"] = manifest["pages"][0]

    command = ("purify-check", edit_manifest(replace), "--rounds", 0, "--precision", "fp32")
    assert "report.html does not hold a report" in refusal(*run(*command))


BAD = {
    "no bundle": (shutil.rmtree, "is not a bundle"),
    "newer schema": (lambda path: (path / "manifest.json").write_text('{"schema_version": 99}'), "upgrade purify-edge"),
    "missing golden set": (lambda path: (path / "golden.npz").unlink(), "golden.npz cannot be read"),
    "missing page": (lambda path: (path / "report.html").unlink(), "report.html cannot be read"),
    "missing model": (lambda path: (path / "models/defended.fp16.onnx").unlink(), "defended.fp16.onnx cannot be read"),
}


@pytest.mark.parametrize("damage", BAD)
def test_a_bad_bundle_ends_with_2_and_one_message(run: Run, bundle_copy: Path, damage: str) -> None:
    change, message = BAD[damage]
    change(bundle_copy)
    assert message in refusal(*run("purify-check", bundle_copy, "--rounds", 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "abacus"), "no engine 'abacus'; known: auto, tensorrt, rtx, onnxruntime"),
        (("--precision", "int8"), "has no int8, only fp32, fp16"),
        (("--min-agreement", "1.5"), "1.5 is not in the range 0<=x<=1"),
        *(((option, "nan"), f"Invalid value for '{option}': nan is no number.") for option in LIMITS),
        (("--max-latency-ms", "5", "--rounds", "0"), "needs at least one timed round"),
        (("--frobnicate",), "No such option"),
        (("--report", "no/folder.html"), "there is no folder"),
    ],
)
def test_wrong_usage_ends_with_2(run: Run, bundle_path: Path, options: tuple[str, ...], message: str) -> None:
    code, out, err = run("purify-check", bundle_path, *options)
    assert message in refusal(code, out, err)
    assert "parity:" not in err  # nothing was begun


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--server", "localhost:8001"], "is no address of a model; expected grpc://HOST:PORT/MODEL or http://"),
        (["--server", "grpc://localhost:8001/pair", "--precision", "fp16"], "no --engine, --precision or --report"),
    ],
)
def test_a_server_that_cannot_be_checked_is_refused(
    run: Run, bundle_path: Path, options: list[str], message: str
) -> None:
    code, _, err = run("purify-check", bundle_path, *options)
    assert code == 2
    assert message in " ".join(err.split())
