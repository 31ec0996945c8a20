"""The table of engines. To add one: a module with its class, and a row here."""

import importlib
from dataclasses import dataclass
from typing import Any, Literal

from purify_edge.engines.base import Cores, CpuSettings, Engine
from purify_edge.engines.tensorrt.store import EngineFiles
from purify_edge.errors import InputError, MissingError, PurifyError, reason


@dataclass(frozen=True)
class EngineRow:
    """An engine that can be chosen.

    Attributes:
        module: the module that holds it, which imports its library only when asked; it has `require()`, which returns
            the library or raises MissingError, and `lossy_precisions()`.
        class_name: the `Engine` in that module.
        extra: the extra of purify-edge that installs its library.
        device: what it runs on.
        title: what people call it.
        builds: whether it builds an engine file for the device, which takes a while; its module then has `is_built()`.
        computes: the lossy precisions in which it can compute float32 graphs.
        cores: the ways to use a CPU's cores that take turns; the first, with which a pipeline begins, stays good while
            other programs use the cores too.
    """

    module: str
    class_name: str
    extra: str
    device: Literal["gpu", "cpu"]
    title: str
    builds: bool = False
    computes: tuple[str, ...] = ()
    cores: tuple[Cores, ...] = ("free",)


ENGINES: dict[str, EngineRow] = {
    "tensorrt": EngineRow(
        "purify_edge.engines.tensorrt.tensorrt", "TensorRTEngine", "tensorrt", "gpu", "TensorRT", builds=True
    ),
    "rtx": EngineRow("purify_edge.engines.tensorrt.rtx", "RtxEngine", "rtx", "gpu", "TensorRT for RTX", builds=True),
    "onnxruntime-cuda": EngineRow(
        "purify_edge.engines.onnxruntime_cuda", "OnnxRuntimeCudaEngine", "gpu", "gpu", "ONNX Runtime on CUDA"
    ),
    "openvino": EngineRow(
        *("purify_edge.engines.openvino", "OpenVinoEngine", "openvino", "cpu", "OpenVINO"),
        computes=("bf16",),
        cores=("free", "tied", "one"),
    ),
    "onnxruntime": EngineRow(
        *("purify_edge.engines.onnxruntime", "OnnxRuntimeEngine", "cpu", "cpu", "ONNX Runtime"),
        cores=("free", "awake", "one"),
    ),
}
"""Engine name -> row. GPUs come first, and on each device what is usually faster."""


def engines_on(device: str) -> list[str]:
    """Return the names of the engines that run on a `gpu` or a `cpu`, in the table's order."""
    return [name for name, row in ENGINES.items() if row.device == device]


def computed_precisions() -> set[str]:
    """Return the lossy precisions in which some engine can compute float32 graphs."""
    return {precision for row in ENGINES.values() for precision in row.computes}


def open_engine(
    name: str, graph: bytes, *, source: str, files: EngineFiles | None = None, settings: CpuSettings | None = None
) -> Engine:
    """Open an engine with a graph.

    Args:
        name: a key of ENGINES.
        graph: an ONNX model, verified.
        source: what errors call it.
        files: the bundle's engine files of the model, for engines that have such.
        settings: how to compute on a CPU; None for the defaults.

    Raises:
        InputError: there is no engine of this name.
        MissingError: its library is not installed, or does not work here.
        BuildError: the engine cannot be built of the graph.
        BundleError: the graph cannot be loaded.
    """
    row = engine_row(name)
    try:
        engine: Engine = getattr(engine_module(name), row.class_name)(
            graph, source=source, files=files, settings=settings
        )
    except (PurifyError, MemoryError):
        raise
    except Exception as error:  # engines' exceptions share no base but Exception
        raise MissingError(f"{row.title} does not work here ({reason(error)})") from error
    return engine


def require_engine() -> None:
    """Check that at least one engine's library is here, before long work that ends with opening an engine.

    Raises:
        MissingError: there is none; the message says why, engine by engine.
    """
    reasons: list[str] = []
    for name in ENGINES:
        try:
            engine_module(name).require()
        except MissingError as error:
            reasons.append(f"{name} {error}")
        else:
            return
    raise MissingError("no engine works here: " + "; ".join(reasons))


def engine_row(name: str) -> EngineRow:
    """Return an engine's row.

    Raises:
        InputError: there is no engine of this name.
    """
    if name not in ENGINES:
        raise InputError(f"no engine {name!r}; known: auto, {', '.join(ENGINES)}")
    return ENGINES[name]


def engine_module(name: str) -> Any:
    """Return the module of an engine."""
    return importlib.import_module(engine_row(name).module)
