"""The engine builder, exercised on TensorRT for RTX, which builds real engines on a machine without a GPU."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from purify_runtime.bundle import Bundle
from purify_runtime.engines import tensorrt
from purify_runtime.engines.tensorrt import RTX_COMPUTE_CAPABILITIES, build_engine, installed_builders
from purify_runtime.errors import BuildError, MissingError

needs_rtx = pytest.mark.skipif("tensorrt_rtx" not in installed_builders(), reason="tensorrt-rtx is not installed")
BATCH = (1, 16, 64)


@needs_rtx
@pytest.mark.parametrize("role", ["purifier", "classifier", "defended"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_model_of_the_bundle_builds(bundle_path: Path, role: str, precision: str) -> None:
    bundle = Bundle.open(bundle_path)
    graph = bundle.read(bundle.model(role, precision).file)
    built = build_engine(graph, builder="tensorrt_rtx", batch=BATCH, source=role)
    assert len(built.content) > 10_000
    assert built.fingerprint == {
        "onnx_sha256": hashlib.sha256(graph).hexdigest(),
        "builder_version": importlib.import_module("tensorrt_rtx").__version__,
        "compute_capabilities": list(RTX_COMPUTE_CAPABILITIES),
        "batch": list(BATCH),
    }


@needs_rtx
def test_an_fp16_engine_is_smaller_than_an_fp32_one(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    sizes = {
        precision: len(
            build_engine(
                bundle.read(bundle.model("defended", precision).file),
                builder="tensorrt_rtx",
                batch=BATCH,
                source=precision,
            ).content
        )
        for precision in ("fp32", "fp16")
    }
    assert sizes["fp16"] < sizes["fp32"]


@needs_rtx
@pytest.mark.parametrize(("graph", "reason"), [(b"", "it is no ONNX model"), (b"nonsense", "Failed to parse")])
def test_what_is_no_graph_is_refused(graph: bytes, reason: str) -> None:
    with pytest.raises(BuildError, match=rf"tensorrt_rtx [0-9.]+ cannot parse the model: .*{reason}"):
        build_engine(graph, builder="tensorrt_rtx", batch=BATCH, source="the model")


@needs_rtx
def test_a_profile_that_is_no_profile_is_refused_in_the_builders_words(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    graph = bundle.read(bundle.model("purifier", "fp32").file)
    with pytest.raises(BuildError, match=r"cannot build the model: .*profile"):
        build_engine(graph, builder="tensorrt_rtx", batch=(64, 16, 1), source="the model")


@pytest.mark.parametrize(("builder", "extra"), [("tensorrt", "tensorrt"), ("tensorrt_rtx", "rtx")])
def test_a_builder_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, builder: tensorrt.Builder, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, builder, None)  # importing it now raises ImportError
    with pytest.raises(MissingError, match=rf"needs '{extra}': pip install 'purify-edge\[{extra}\]'"):
        build_engine(b"", builder=builder, batch=BATCH, source="the model")


def test_a_folder_that_is_called_like_a_builder_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a_builder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tensorrt, "EXTRAS", {"a_builder": "none"})
    assert importlib.util.find_spec("a_builder") is not None
    assert installed_builders() == []
    (tmp_path / "a_builder" / "__init__.py").touch()
    importlib.invalidate_caches()
    assert installed_builders() == ["a_builder"]


def test_a_tensorrt_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("tensorrt")
    old.__version__ = "8.6.2"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(MissingError, match=r"tensorrt 8\.6\.2 is too old: needs 10 or newer"):
        build_engine(b"", builder="tensorrt", batch=BATCH, source="the model")
