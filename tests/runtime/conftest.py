"""Fixtures of the runtime's tests."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.images import BAD_IMAGES


@pytest.fixture
def edit_manifest(bundle_copy: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """Change the manifest of a copied bundle; the copy."""

    def edit(change: Callable[[dict[str, Any]], None]) -> Path:
        path = bundle_copy / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))
        return bundle_copy

    return edit


@pytest.fixture(params=BAD_IMAGES)
def bad_image(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A file that is no usable image, and what the error must say."""
    content, message = BAD_IMAGES[request.param]
    path = tmp_path / request.param
    path.write_bytes(content)
    return path, message


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """State and cache of a user who has built nothing yet."""
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "user" / variable))
    return tmp_path / "user"


@pytest.fixture
def imitate(monkeypatch: pytest.MonkeyPatch, own_folders: Path) -> Iterator[Callable[..., Any]]:
    """Put an imitated GPU and library in place; its world. No rule of CUDA or TensorRT may be broken on it."""
    real = pytest.importorskip("tensorrt_rtx")
    from helpers.fake_cuda import FakeCuda
    from helpers.fake_tensorrt import fake_tensorrt

    worlds: list[Any] = []

    def put_in_place(builder: str = "tensorrt_rtx", version: str = real.__version__, **gpu: Any) -> Any:
        cuda = FakeCuda(**gpu)
        module = fake_tensorrt(real, cuda, builder=builder, version=version)
        monkeypatch.setitem(sys.modules, builder, module)
        monkeypatch.setattr("purify_runtime.engines.trt.cudart._candidates", lambda: ["libcudart.so"])
        monkeypatch.setattr("purify_runtime.engines.trt.cudart._load", lambda name: cuda)
        worlds.append(module.world)
        return module.world

    yield put_in_place
    for world in worlds:
        assert world.cuda.violations == []


@pytest.fixture
def model_files(bundle_copy: Path) -> Callable[..., Any]:
    """The engine files of a model in a copied bundle."""
    from purify_runtime.bundle import Bundle
    from purify_runtime.engine_files import EngineFiles, EnginePolicy

    def of(role: str = "purifier", precision: str = "fp32", **policy: bool) -> EngineFiles:
        bundle = Bundle.open(bundle_copy)
        return EngineFiles(bundle=bundle, model=bundle.model(role, precision), policy=EnginePolicy(**policy))

    return of
