"""Fixtures of the engines' tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from purify_edge.bundle.reader import Bundle
from purify_edge.engines.tensorrt.build import BuiltEngine, build_engine
from purify_edge.engines.tensorrt.cudart import Device
from purify_edge.engines.tensorrt.library import Builder, load_library
from purify_edge.engines.tensorrt.options import BuildOptions


@pytest.fixture(scope="session")
def graphs(bundle_path: Path) -> dict[str, bytes]:
    """The bundle's float32 graphs by role."""
    bundle = Bundle.open(bundle_path)
    return {model.role: bundle.read(model.file) for model in bundle.manifest.models if model.precision == "fp32"}


@pytest.fixture
def build(bundle_path: Path) -> Callable[..., BuiltEngine]:
    """Build a model of the bundle, or another graph; by default with the real TensorRT for RTX."""

    def build(
        role: str = "purifier",
        precision: str = "fp16",
        *,
        builder: Builder = "tensorrt_rtx",
        graph: bytes | None = None,
        device: Device | None = None,
        progress: Any = None,
        **options: Any,
    ) -> BuiltEngine:
        return build_engine(
            (bundle_path / f"models/{role}.{precision}.onnx").read_bytes() if graph is None else graph,
            library=load_library(builder),
            options=BuildOptions(**options),
            precision=precision,
            source=f"the {role}",
            device=device,
            progress=progress,
        )

    return build
