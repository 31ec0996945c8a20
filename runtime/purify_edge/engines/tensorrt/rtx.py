"""TensorRT for RTX, for GeForce and workstation GPUs."""

from functools import partial

from purify_edge.engines.tensorrt.engine import TrtEngine, is_engine_there, lossy_precisions, require_builder

__all__ = ["RtxEngine", "is_built", "lossy_precisions", "require"]

require = partial(require_builder, "tensorrt_rtx")
is_built = partial(is_engine_there, "tensorrt_rtx")


class RtxEngine(TrtEngine):
    """Run a graph in TensorRT for RTX."""

    name = "rtx"
    builder = "tensorrt_rtx"
