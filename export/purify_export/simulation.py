"""Graphs computed in float32 as they are written: what engines on a CPU hide or make worse, this shows.

16-bit graphs get each tensor rounded. INT8 graphs keep their quantisation, without sums of integers that may saturate.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

import msgspec
import onnx

from purify_edge.bundle.manifest import Precision, Role
from purify_edge.bundle.report import SIMULATION, NotChecked, Report
from purify_edge.check.comparison import EngineSet
from purify_edge.document.wording import plural
from purify_edge.engines.base import Pair
from purify_edge.engines.onnxruntime import OnnxRuntimeEngine
from purify_edge.engines.registry import engines_on
from purify_edge.machine import integers_may_saturate
from purify_export.convert.half_from_fp32 import FORMATS, rounding_from_half

SATURATED = (
    "this processor has no VNNI: its sums of 8-bit products saturate with these networks, which broke {count}. "
    "Computed as they are written the graphs break none. Do not run INT8 here; purify-check on the device checks it"
)


class Simulation(OnnxRuntimeEngine):
    """An engine of a graph in float32: 16-bit tensors are rounded, see `rounding_from_half`, quantised ones too."""

    name = SIMULATION
    settings = (("session.disable_quant_qdq", "1"),)


def to_simulate(precisions: Iterable[Precision]) -> list[Precision]:
    """Return the precisions that this machine's engines may compute otherwise than they are written."""
    saturating = {"int8"} if integers_may_saturate() else set()
    return [name for name in precisions if name in FORMATS or name in saturating]


def simulated(precision: Precision, graphs: Mapping[Role, onnx.ModelProto], stack: ExitStack) -> EngineSet:
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
    return EngineSet(SIMULATION, defended.version, defended.device, precision, stages)


def without_saturated(report: Report) -> Report:
    """Return the report without the limits that engines on this CPU broke in INT8, if the simulation of it broke none.

    The figures stay, and what is left out is said not to be checked. A report with no such simulation stays as it is.
    """
    simulation = [check for check in report.checks if f", {SIMULATION} int8 " in check.name]
    if not simulation or not all(check.passed for check in simulation):
        return report
    checks, left = list(report.checks), list(report.not_checked)
    for engine in engines_on("cpu"):
        broken = [check for check in checks if not check.passed and f", {engine} int8 " in check.name]
        if broken:
            checks = [check for check in checks if check not in broken]
            reason = SATURATED.format(count=plural(len(broken), "limit"))
            left.append(NotChecked(engine=engine, precision="int8", reason=reason))
    return msgspec.structs.replace(
        report, checks=tuple(checks), passed=all(check.passed for check in checks), not_checked=tuple(left)
    )
