"""TensorRT for RTX, for GeForce and workstation GPUs."""

from purify_edge.engines.tensorrt.engine import TrtEngine, require_builder
from purify_edge.engines.tensorrt.library import Library


def require() -> Library:
    """TensorRT for RTX, imported, with a GPU that it runs on.

    Raises:
        MissingError: one of the two is not here.
    """
    return require_builder("tensorrt_rtx")[0]


class RtxEngine(TrtEngine):
    """An engine of TensorRT for RTX."""

    name = "rtx"
    builder = "tensorrt_rtx"
