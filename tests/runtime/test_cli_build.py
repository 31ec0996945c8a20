"""purify-build, with the real TensorRT for RTX: it builds without a GPU."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from helpers.fixtures import Imitate
from helpers.refusals import refused
from purify_edge.build.cli import main
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.check.cli import main as purify_check
from purify_edge.run.cli import main as purify_run

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
    ("arguments", "message"),
    [
        (("--engine", "onnxruntime"), "no engine onnxruntime that is built; known: tensorrt, rtx"),
        (("--precision", "int4"), "has no int4, only fp32, fp16"),
        (("--engine", "rtx", "--workspace", "99999999999999999"), "expected 1 to 1048576 MiB"),
        (("--batch", "one"), "--batch one: expected MIN,OPT,MAX"),
        (("--engine", "rtx", "--version-compatible"), "has no version compatible engines; TensorRT has"),
    ],
)
def test_bad_input_ends_with_one_clear_line(
    build: Invoke, bundle_copy: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = (bundle_copy / "manifest.json").read_bytes()
    assert message in refused(build(*arguments))
    assert (bundle_copy / "manifest.json").read_bytes() == before


def test_a_builder_that_nobody_named_and_that_cannot_build_is_left_out(
    build: Invoke, imitate: Imitate, monkeypatch: pytest.MonkeyPatch, bundle_copy: Path
) -> None:
    """TensorRT for RTX has nothing for an Orin, and no DLA."""
    rtx = imitate("tensorrt_rtx", name="Orin", capability=(8, 7))
    tensorrt = imitate("tensorrt", "10.3.0", name="Orin", capability=(8, 7))
    tensorrt.dla_cores = 1
    monkeypatch.setattr("purify_edge.build.build.installed_builders", lambda: ["tensorrt_rtx", "tensorrt"])
    done = build("--precision", "fp16", "--dla", "0", "--batch", "1,1,1")
    assert done.exit_code == 0, done.stderr
    assert "no rtx engines: TensorRT for RTX 1" in done.stderr
    assert re.search(r"models/purifier\.fp16\.onnx: left to the GPU: .*\bnode_", done.stderr)
    assert (len(rtx.builds), len(tensorrt.builds)) == (0, 3)
    refused = build("--dla", "0", "--batch", "1,1,1")  # float32 too, which no DLA runs; nothing is begun
    assert refused.exit_code == 2
    assert "has no DLA; TensorRT 8.6" in refused.stderr
    assert len(tensorrt.builds) == 3
    tensorrt.cuda.count = 0
    monkeypatch.setattr("purify_edge.build.build.installed_builders", lambda: ["tensorrt"])
    missing = build()
    assert missing.exit_code == 3
    assert "no tensorrt engines: needs an NVIDIA GPU" in missing.stderr


@pytest.mark.usefixtures("_rtx")
def test_the_same_gpus_in_another_order_are_the_same_engine(build: Invoke) -> None:
    first, second = ("--compute-capability", "12.0"), ("--compute-capability", "8.9")
    options = ("--engine", "rtx", "--precision", "fp16", "--json")
    assert all(engine["built"] for engine in json.loads(build(*options, *first, *second).stdout))
    again = json.loads(build(*options, *second, *first, *first).stdout)
    assert not any(engine["built"] for engine in again)
    assert again[0]["fingerprint"]["compute_capabilities"] == ["8.9", "12.0"]


def test_run_and_check_load_what_was_built(build: Invoke, imitate: Imitate, bundle_copy: Path, tmp_path: Path) -> None:
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
