"""Engines in a new bundle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from helpers.fixtures import Imitate
from helpers.keys import make_keys
from helpers.refusals import refused
from purify_edge.bundle.reader import Bundle
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.engines.tensorrt.store import is_trusted
from purify_edge.errors import InputError, MissingError
from purify_export.cli import main
from purify_export.engines import targets_from

Invoke = Callable[..., Any]


@pytest.fixture
def export() -> Invoke:
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_signed_bundle_with_the_engines_that_were_asked_for(
    imitate: Imitate, export: Invoke, run_path: Path, tmp_path: Path
) -> None:
    """On a machine with a GPU, where the check of the new bundle builds engines too."""
    pytest.importorskip("model_signing")
    private, public = make_keys(tmp_path, "key")
    world = imitate()
    out = tmp_path / "bundle"
    options = ("--targets", "onnx,rtx", "--batch", "1,4,32", "--compute-capability", "8.6", "--sign", private)
    done = export(run_path, "--fp16", *options, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert "models/purifier.fp16.onnx, TensorRT for RTX" in done.stderr
    manifest = Bundle.open(out).manifest
    keys = {engine.key: engine for engine in manifest.engines}
    for role in ("purifier", "classifier", "defended"):
        engine = keys[role, "fp16", "tensorrt_rtx"]
        assert engine.fingerprint["batch"] == [1, 4, 32]
        assert engine.fingerprint["compute_capabilities"] == ["8.6"]
        assert is_trusted(engine.file.sha256)
        Bundle.open(out).read(engine.file)
        assert keys[role, "fp32", "tensorrt_rtx"].fingerprint["gpu"] is None  # of the check
    assert len(world.builds) == 6
    assert Bundle.open(out, verify=public).verified
    assert {path.name for path in out.iterdir()} == {
        "engines", "models", "golden.npz", "golden-files.zip", "manifest.json",
        "report.json", "report.html", "report.md", "model.sig", "sbom.cdx.json"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--targets", "onnx,abacus"), "no target 'abacus'; known: onnx, tensorrt, rtx"),
        (("--targets", "rtx", "--dla", "0", "--batch", "1,1,1"), "has no DLA; TensorRT 8.6"),
        (("--targets", "rtx", "--compute-capability", "8.7"), "does not build for compute capability 8.7"),
        (("--targets", ""), "no target ''; known: onnx, tensorrt, rtx"),
        (("--max-accuracy-drop", "nan"), "nan is no number"),
        (("--version-compatible",), "has no version compatible engines"),
        (("--batch", "1,2"), "--batch 1,2: expected MIN,OPT,MAX"),
        (("--batch", "4,2,1"), "expected 1 <= MIN <= OPT <= MAX"),
        (("--sign", "absent.pem"), "absent.pem cannot be used to sign"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_begun(
    imitate: Imitate, export: Invoke, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    imitate()
    if "--sign" in arguments:
        pytest.importorskip("model_signing")
    assert message in refused(export("--out", tmp_path / "out" / "bundle", *arguments))
    assert not (tmp_path / "out").exists()


def test_a_target_that_was_asked_for_must_be_had(imitate: Imitate) -> None:
    imitate("tensorrt", "10.3.0").cuda.count = 0
    told: list[str] = []
    with pytest.raises(MissingError, match="needs an NVIDIA GPU"):
        targets_from(["tensorrt"], BuildOptions(), ["fp32"], told.append)
    assert targets_from(["onnx"], BuildOptions(), ["fp32"], told.append) == []
    assert told == []
    with pytest.raises(InputError, match="for the GPU at hand"):
        imitate("tensorrt", "10.3.0")
        targets_from(["tensorrt"], BuildOptions(compute_capabilities=("8.6",)), ["fp32"], told.append)


def test_the_gpu_that_tensorrt_builds_for_is_in_the_fingerprint(imitate: Imitate) -> None:
    imitate("tensorrt", "10.3.0", name="Orin", capability=(8, 7))
    (target,) = targets_from(["tensorrt"], BuildOptions(), ["fp32"], print)
    assert target.device is not None
    assert target.device.name == "Orin"
