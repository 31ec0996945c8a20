"""TensorRT, for NVIDIA's Jetsons and data centre GPUs."""

from functools import partial

from purify_edge.engines.tensorrt.engine import TrtEngine, is_engine_there, lossy_precisions, require_builder

__all__ = ["TensorRTEngine", "is_built", "lossy_precisions", "require"]

require = partial(require_builder, "tensorrt")
is_built = partial(is_engine_there, "tensorrt")


class TensorRTEngine(TrtEngine):
    """Run a graph in TensorRT."""

    name = "tensorrt"
    builder = "tensorrt"
