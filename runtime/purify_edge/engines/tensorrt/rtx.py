"""TensorRT for RTX, for GeForce and workstation GPUs."""

from purify_edge.engines.tensorrt.engine import TrtEngine, is_engine_there, require_builder
from purify_edge.engines.tensorrt.library import Library
from purify_edge.engines.tensorrt.store import EngineFiles


def require() -> Library:
    """Return TensorRT for RTX, imported, with a GPU that it runs on.

    Raises:
        MissingError: one of the two is not here.
    """
    return require_builder("tensorrt_rtx")[0]


def is_built(files: EngineFiles) -> bool:
    """Return whether a model can be opened without building an engine."""
    return is_engine_there("tensorrt_rtx", files)


def lossy_precisions() -> frozenset[str]:
    """Return the lossy precisions that may be faster than float32 here."""
    return frozenset({"fp16", "bf16", "int8"})


class RtxEngine(TrtEngine):
    """Run a graph in TensorRT for RTX."""

    name = "rtx"
    builder = "tensorrt_rtx"
