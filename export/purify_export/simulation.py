"""16-bit graphs in float32 with each tensor rounded: what ONNX Runtime on a CPU hides, it shows."""

from collections.abc import Mapping
from contextlib import ExitStack

import onnx

from purify_edge.bundle.manifest import Role
from purify_edge.bundle.report import SIMULATION
from purify_edge.check.comparison import EngineSet
from purify_edge.engines.base import Pair
from purify_edge.engines.onnxruntime import OnnxRuntimeEngine
from purify_export.convert.half_from_fp32 import Half, rounding_from_half


class Simulation(OnnxRuntimeEngine):
    """An engine of a 16-bit graph in float32, each tensor rounded; see `rounding_from_half`."""

    name = SIMULATION


def simulated(half: Half, graphs: Mapping[Role, onnx.ModelProto], stack: ExitStack) -> EngineSet:
    """Open the simulation of the three graphs of a precision; `stack` closes it."""
    purifier, classifier, defended = (
        stack.enter_context(
            Simulation(rounding_from_half(graphs[role]).SerializeToString(), source=f"the simulated {role}")
        )
        for role in ("purifier", "classifier", "defended")
    )
    pair = Pair(purifier, classifier)
    stages = {
        "purifier": pair.purify,
        "classifier": pair.classify,
        "pipeline": pair.logits,
        "defended": defended.run,
    }
    return EngineSet(SIMULATION, defended.version, defended.device, half, stages)
