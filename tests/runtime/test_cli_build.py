"""purify-build, with the real TensorRT for RTX: it builds without a GPU."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from purify_runtime.bundle import Bundle
from purify_runtime.cli.build import main
from purify_runtime.cli.check import main as purify_check
from purify_runtime.cli.run import main as purify_run
from purify_runtime.golden import load_golden

Invoke = Callable[..., Any]


@pytest.fixture
def build(own_folders: Path, bundle_copy: Path) -> Invoke:
    """Run purify-build on the copied bundle."""
    return lambda *arguments: CliRunner().invoke(main, [str(bundle_copy), *map(str, arguments)])


@pytest.fixture
def _rtx() -> None:
    pytest.importorskip("tensorrt_rtx")


@pytest.mark.usefixtures("_rtx")
def test_engines_are_built_once_and_then_kept(build: Invoke, bundle_copy: Path) -> None:
    options = ("--engine", "rtx", "--precision", "fp16", "--compute-capability", "8.6", "--batch", "1,2,4")
    first = build(*options, "--json")
    assert first.exit_code == 0, first.stderr
    built = json.loads(first.stdout)
    assert [(engine["role"], engine["precision"], engine["built"]) for engine in built] == [
        (role, "fp16", True) for role in ("purifier", "classifier", "defended")
    ]
    assert all(engine["fingerprint"]["compute_capabilities"] == ["8.6"] for engine in built)
    assert all(engine["fingerprint"]["batch"] == [1, 2, 4] for engine in built)
    assert "building an engine with TensorRT for RTX" in first.stderr
    again = build(*options)
    assert again.exit_code == 0
    assert again.stdout.count("kept") == 3
    assert "building" not in again.stderr
    other = build("--engine", "rtx", "--precision", "fp16", "--compute-capability", "8.6", "--batch", "1,2,8")
    assert "the engine does not fit: batch 1,2,4 there, 1,2,8 here" in other.stderr
    assert "compute capabilities" not in other.stderr
    forced = build(*options[:-1], "1,2,8", "--force", "--json")
    assert all(engine["built"] for engine in json.loads(forced.stdout))
    Bundle.open(bundle_copy).verify()


@pytest.mark.usefixtures("_rtx")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--engine", "onnxruntime"), 2, "no engine onnxruntime that is built; known: tensorrt, rtx"),
        (("--precision", "int4"), 2, "has no int4, only fp32, fp16"),
        (("--batch", "one"), 2, "--batch one: expected MIN,OPT,MAX"),
        (("--engine", "rtx", "--version-compatible"), 2, "no way to make a version compatible engine"),
        (("--engine", "rtx", "--workspace", "-1"), 2, "workspace -1: expected 1 or more"),
    ],
)
def test_bad_input_ends_with_one_clear_line(
    build: Invoke, bundle_copy: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = (bundle_copy / "manifest.json").read_bytes()
    done = build(*arguments)
    assert done.exit_code == code
    assert message in done.stderr
    assert done.stderr.count("Error:") == 1
    assert "Traceback" not in done.stderr
    assert (bundle_copy / "manifest.json").read_bytes() == before


def test_without_a_gpu_tensorrt_is_missing(build: Invoke, imitate: Callable[..., Any]) -> None:
    imitate("tensorrt", "10.3.0").cuda.count = 0
    done = build("--engine", "tensorrt")
    assert done.exit_code == 3
    assert "needs an NVIDIA GPU and its driver: CUDA finds no GPU" in done.stderr


def test_layers_that_a_dla_cannot_run_are_listed(build: Invoke, imitate: Callable[..., Any]) -> None:
    imitate("tensorrt", "10.3.0").dla_cores = 1
    done = build("--engine", "tensorrt", "--precision", "fp16", "--dla", "0", "--batch", "1,1,1")
    assert done.exit_code == 0, done.stderr
    assert re.search(r"models/purifier\.fp16\.onnx: left to the GPU: .*\bnode_", done.stderr)


def test_what_was_built_is_what_run_and_check_load(
    build: Invoke, imitate: Callable[..., Any], bundle_copy: Path, tmp_path: Path
) -> None:
    world = imitate()
    image = tmp_path / "image.png"
    from PIL import Image

    Image.fromarray(load_golden(Bundle.open(bundle_copy))["clean"].images[0][:, :, 0]).save(image)
    arguments = [str(bundle_copy), str(image), "--engine", "rtx", "--json"]
    refused = CliRunner().invoke(purify_run, [*arguments, "--no-build"])
    assert refused.exit_code == 3
    assert "may build none (--no-build): purify-build" in refused.stderr
    assert build("--engine", "rtx", "--precision", "fp32").exit_code == 0
    assert len(world.builds) == 3
    for command, more in ((purify_run, arguments), (purify_check, [*arguments[:1], *arguments[2:], "--rounds", "1"])):
        precision = ["--precision", "fp32"]
        done = CliRunner().invoke(command, [*more, *precision, "--no-build"])
        assert done.exit_code == 0, done.stderr
    assert len(world.builds) == 3
    os.environ["XDG_STATE_HOME"] += "-of-another-user"
    refused = CliRunner().invoke(purify_run, [*arguments, "--no-build"])
    assert refused.exit_code == 3
    assert "came from elsewhere" in refused.stderr
    assert CliRunner().invoke(purify_run, [*arguments, "--no-build", "--trust-engines"]).exit_code == 0
