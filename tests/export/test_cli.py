import json
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from helpers.fixtures import Run
from helpers.processes import fill_the_disk
from helpers.refusals import refused
from purify_edge.bundle.reader import Bundle
from purify_export.cli import main
from purify_export.convert.range_scan import MAX_LOSS
from purify_toolkit.runs.pretrained import FOLDER

RUN = FOLDER / "fashion-mnist"


def test_an_export_from_the_command_line(run: Run, run_path: Path, tmp_path: Path) -> None:
    code, out, err = run(
        "purify-export", run_path, "--fp16", "--targets", "onnx", "--json", "--out", tmp_path / "bundle"
    )
    assert code == 0, err
    assert json.loads(out) == json.loads((tmp_path / "bundle" / "report.json").read_text())
    for stage in ("loading", "models/*.fp32.onnx", "golden set", "parity and latency"):
        assert stage in err  # a progress line a stage
    assert Bundle.open(tmp_path / "bundle").precisions("purifier") == ["fp32", "fp16"]
    again = CliRunner().invoke(main, [str(run_path), "--out", str(tmp_path / "bundle")])
    assert "bundle exists; --force replaces it" in refused(again)


def test_integrations_do_not_go_with_graphs_of_bytes(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--integrations", "--served", "uint8", "--out", str(tmp_path / "bundle")])
    assert "leave out uint8" in refused(done)
    assert not list(tmp_path.iterdir())


def _empty(folder: Path) -> Path:
    (folder / "run").mkdir()
    return folder / "run"


def _narrow(folder: Path) -> Path:
    run = Path(shutil.copytree(RUN, folder / "run"))
    recipe = run / "recipe.toml"
    before, after = recipe.read_text().split("[student]")
    recipe.write_text(before + "[student]" + after.replace("width = 16", "width = 8", 1))
    return run


def _incomplete(folder: Path, name: str) -> Path:
    run = Path(shutil.copytree(RUN, folder / "run"))
    (run / name).unlink()
    return run


def _without_images(folder: Path) -> Path:
    """A run on a user's own images, of which none travel with it."""
    run = _incomplete(folder, "samples.npz")
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('dataset = "fashion-mnist"', 'dataset = "image-folder"'))
    return run


def _cut(folder: Path, name: str) -> Path:
    run = Path(shutil.copytree(RUN, folder / "run"))
    (run / name).write_bytes((run / name).read_bytes()[:1000])
    return run


BAD_RUNS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (lambda folder: folder / "absent", "no run"),
    "empty": (_empty, "is not a run folder"),
    "no student": (lambda folder: _incomplete(folder, "student.safetensors"), "student.safetensors"),
    "no classifier": (lambda folder: _incomplete(folder, "classifier.safetensors"), "classifier.safetensors"),
    "no samples": (_without_images, "--data names their folder"),
    "cut student": (lambda folder: _cut(folder, "student.safetensors"), "student.safetensors"),
    "cut samples": (lambda folder: _cut(folder, "samples.npz"), "samples.npz"),
    "weights of another recipe": (_narrow, "does not hold the recipe's student"),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_a_bad_run_ends_with_2_and_one_message(tmp_path: Path, case: str) -> None:
    make, message = BAD_RUNS[case]
    done = CliRunner().invoke(main, [str(make(tmp_path)), "--out", str(tmp_path / "bundle")])
    assert message in refused(done)
    assert {path.name for path in tmp_path.iterdir()} <= {"run"}


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_with_2_and_leaves_no_half_bundle(run: Run, run_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    code, _, err = run("purify-export", run_path, "--out", out, preexec_fn=partial(fill_the_disk, 100_000))
    assert code == 2
    assert "Error:" in err
    assert "File too large" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def _scaled_head(run: Path, folder: Path, factor: float, offset: float) -> Path:
    """The run with its logits scaled and shifted: the same classes in float32."""
    copy = Path(shutil.copytree(run, folder / "run"))
    weights = load_file(copy / "classifier.safetensors")
    weights["head.weight"] *= factor
    weights["head.bias"] = weights["head.bias"] * factor + offset
    save_file(weights, copy / "classifier.safetensors")
    return copy


def test_a_layer_that_overflows_float16_is_named_and_the_bundle_is_good(run_path: Path, tmp_path: Path) -> None:
    folder = _scaled_head(run_path, tmp_path, 1e6, 0)
    options = ["--fp16", "--targets", "onnx", "--out", str(tmp_path / "bundle")]
    done = CliRunner().invoke(main, [str(folder), *options])
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "pytorch" in said
    assert re.search(r"fp16 classifier node_\S+ \(Gemm of head.weight\) it", said)
    report = json.loads((tmp_path / "bundle" / "report.json").read_text())
    assert ("classifier", "head.weight") in [(layer["role"], layer["weight"]) for layer in report["kept"]]


def test_a_model_that_does_not_agree_with_pytorch_is_kept_apart_and_refused_unless_allowed(
    run: Run, run_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = _scaled_head(run_path, tmp_path, 2.5e-2, 30), tmp_path / "bundle"
    monkeypatch.setitem(MAX_LOSS, "fp16", 1e9)  # so that nothing is found that float16 loses
    done = CliRunner().invoke(main, [str(folder), "--fp16", "--targets", "onnx", "--out", str(out)])
    assert done.exit_code == 1, done.stderr
    said = " ".join(done.stdout.split())
    broken = said.partition("Limits that do not hold")[2].partition("What was not checked")[0]
    assert "✗ relative error, simulation fp16 classifier clean" in broken
    assert "onnxruntime fp32" not in broken
    assert re.search(
        r"first diverging layer in fp16, clean: classifier/node_\S+ \(Gemm of classifier/head.weight\), error", said
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle.failed", "run"]
    failed = tmp_path / "bundle.failed"
    broken = Bundle.open(failed, allow_failed=True).manifest.failed
    assert all(" fp16 " in name for name in broken)
    image = next((RUN / "images").glob("*-clean.png"))
    for command, more in (("purify-check", ["--rounds", "0"]), ("purify-run", [image])):
        code, _, err = run(command, failed, *more)
        assert code == 2
        assert f"failed its export and is marked so: {broken[0]}" in err
        assert "--allow-failed" in err
    assert run("purify-check", failed, "--rounds", "0", "--allow-failed", "--precision", "fp32")[0] == 0
    assert run("purify-run", failed, image, "--allow-failed")[0] == 0


@pytest.mark.parametrize("size", ["32", "0x32", "32x9999", "32x32x3"])
def test_a_size_that_is_none_ends_with_2(size: str) -> None:
    said = refused(CliRunner().invoke(main, ["--size", size]))
    assert "expected HEIGHTxWIDTH, each from 1 to 4096, like 64x64" in said


def test_a_run_in_the_current_folder_has_its_folders_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Path(shutil.copytree(RUN, tmp_path / "mine"))
    monkeypatch.chdir(run)
    (run / "bundles" / "mine").mkdir(parents=True)
    assert "bundles/mine exists" in refused(CliRunner().invoke(main, ["."]))


def test_without_an_engine_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)  # importing it now raises ImportError
    done = CliRunner().invoke(main, ["--out", str(tmp_path / "bundle")])
    assert done.exit_code == 3
    assert "needs 'cpu': pip install 'purify-edge[cpu]'" in done.stderr
    assert "models/" not in done.stderr
    assert list(tmp_path.iterdir()) == []
