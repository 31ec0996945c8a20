"""TensorRT, for NVIDIA's Jetsons and data centre GPUs."""

from purify_edge.engines.tensorrt.engine import TrtEngine, require_builder
from purify_edge.engines.tensorrt.library import Library


def require() -> Library:
    """TensorRT, imported, with a GPU that it runs on.

    Raises:
        MissingError: one of the two is not here.
    """
    return require_builder("tensorrt")[0]


class TensorRTEngine(TrtEngine):
    """An engine of TensorRT."""

    name = "tensorrt"
    builder = "tensorrt"
