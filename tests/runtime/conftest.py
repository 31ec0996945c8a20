"""Fixtures of the runtime's tests."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from helpers.images import BAD_IMAGES
from helpers.stub_libraries import Compile, compiler_into
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.manifest import encode_manifest
from purify_edge.bundle.reader import Bundle

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")  # an example may take longer than the others: the machine may be busy


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
def model_files(bundle_copy: Path) -> Callable[..., Any]:
    """The engine files of a model in a copied bundle."""
    from purify_edge.bundle.reader import Bundle
    from purify_edge.engines.tensorrt.store import EngineFiles, EnginePolicy

    def of(role: str = "purifier", precision: str = "fp32", **policy: bool) -> EngineFiles:
        bundle = Bundle.open(bundle_copy)
        return EngineFiles(bundle=bundle, model=bundle.model(role, precision), policy=EnginePolicy(**policy))

    return of


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder before all others on the path."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compile:
    """Compile C into a shared library in a folder where the loader looks first."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    return compiler_into(folder)


@pytest.fixture
def unbuilt_bundle(bundle_copy: Path) -> Path:
    """A bundle without the engines that came with it, where a builder was installed at the export."""
    manifest = msgspec.structs.replace(Bundle.open(bundle_copy).manifest, engines=())
    (bundle_copy / "manifest.json").write_bytes(encode_manifest(manifest))
    shutil.rmtree(bundle_copy / "engines", ignore_errors=True)
    return bundle_copy


@pytest.fixture
def images(bundle_path: Path, tmp_path: Path) -> list[Path]:
    """Five adversarial golden images as PNG."""
    folder = tmp_path / "images"
    folder.mkdir()
    split = load_golden(Bundle.open(bundle_path))["adversarial"]
    paths = [folder / f"image{index}.png" for index in range(5)]
    for path, pixels in zip(paths, split.images[:5], strict=True):
        Image.fromarray(pixels[:, :, 0]).save(path)
    return paths
