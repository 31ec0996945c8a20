"""The gate after the conversions: outputs and accuracy against PyTorch, and the first layer that diverges."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack

import msgspec
import numpy as np
import onnx

from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.manifest import Precision
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import SIMULATION, Check, Divergence, NotChecked, Report
from purify_edge.check.comparison import compare
from purify_edge.check.limits import Limits, checks_of, suspicion_checks
from purify_export.convert.convert import Converted, as_floats
from purify_export.convert.graphs import (
    Array,
    Layer,
    Spread,
    difference,
    float_outputs,
    layer_of,
    mean_squares,
    tensors,
    weights_of,
)
from purify_export.convert.half_from_fp32 import rounding_from_half
from purify_export.convert.int8_from_fp32 import quantised_layers
from purify_export.progress import Tell, silent
from purify_export.simulation import simulated, to_simulate, without_saturated

TOLERANCE: dict[str, float] = {"fp32": 0.001, "fp16": 0.02, "bf16": 0.1, "int8": 0.2}
"""How far a layer's output may be off: root mean square of the error, against that of differences between images."""
COMPARED = 64  # images of the split that a limit was broken on
NOT_RUN = (
    "no engine here runs bfloat16 (on a CPU OpenVINO does, where both have it: pip install 'purify-edge[openvino]'); "
    "purify-check on the device checks what is only simulated here"
)


def gate(
    report: Report,
    bundle: Bundle,
    converted: Mapping[Precision, Converted],
    golden: Mapping[str, GoldenSplit],
    limits: Limits,
    note: Tell = silent,
) -> Report:
    """Return the runtime's report of the bundle and its golden set with what only the exporter can tell."""
    rows = list(report.parity)
    checks: list[Check] = []
    suspicion = bundle.manifest.suspicion
    for precision in to_simulate(converted):
        note(f"{precision}, simulated")  # on a CPU ONNX Runtime hides what float16 does between operators
        with ExitStack() as stack:
            found = compare(simulated(precision, converted[precision].graphs, stack), golden, bundle)
        rows += found.rows
        checks += checks_of(found.rows, [], limits)
        if precision == "int8" and suspicion:  # what an engine breaks of it may be left out
            where = f"{SIMULATION} {precision}"
            checks += suspicion_checks(suspicion, golden, found.scores, limits, where=where)
    if "bf16" in converted and all(row.precision != "bf16" for row in report.parity):
        others = [left for left in report.not_checked if left.precision != "bf16"]
        unchecked = NotChecked(precision="bf16", reason=NOT_RUN)
        report = msgspec.structs.replace(report, not_checked=(*others, unchecked))
    if "int8" in converted:
        count = len(quantised_layers(converted["int8"].graphs["defended"]))
        checks.append(Check(name="layers in INT8, at least", value=count, limit=1, passed=count >= 1))
    report = without_saturated(msgspec.structs.replace(report.with_checks(*checks), parity=tuple(rows)))
    return msgspec.structs.replace(
        report,
        kept=tuple(layer for item in converted.values() for layer in item.kept),
        attempts=tuple(attempt for item in converted.values() for attempt in item.attempts),
        diverging=tuple(_diverging(report, converted, golden)),
    )


def _diverging(
    report: Report, converted: Mapping[Precision, Converted], golden: Mapping[str, GoldenSplit]
) -> Iterator[Divergence]:
    """Yield the first layer that diverges, for each precision that broke a limit and each split."""
    broken = [check.name for check in report.checks if not check.passed]
    for precision, item in converted.items():
        if precision == "fp32" or not any(f" {precision} " in name for name in broken):
            continue
        for split, content in golden.items():
            images = as_floats(content.images[:COMPARED])
            graph, exact = item.graphs["defended"], converted["fp32"].graphs["defended"]
            yield from divergence(graph, exact, images, precision=precision, split=split)


def divergence(
    converted: onnx.ModelProto, exact: onnx.ModelProto, images: Array, *, precision: str, split: str
) -> Iterator[Divergence]:
    """Yield the first layer that differs from the float32 graph's by more than the precision allows, if one does."""
    tolerance = TOLERANCE[precision]
    found = first_divergence(converted, exact, images, tolerance=tolerance)
    if found:
        layer, error = found
        yield Divergence(precision=precision, split=split, error=error, tolerance=tolerance, **vars(layer))


def first_divergence(
    converted: onnx.ModelProto, exact: onnx.ModelProto, images: Array, *, tolerance: float
) -> tuple[Layer, float] | None:
    """Return the first node, in the order of the graph, whose output differs by more than a tolerance, and its error.

    Conversion leaves the names of what nodes give as they are; by these the two graphs are compared. A 16-bit graph is
    simulated, so that an overflow shows that ONNX Runtime, computing in float32, would hide. The error is a root mean
    square against that of what differs between images.
    """
    runnable = rounding_from_half(converted)
    there = set(float_outputs(runnable))
    names = [name for name in float_outputs(exact) if name in there]
    makers = {name: node for node in exact.graph.node for name in node.output}
    errors = _errors(tensors(runnable, names, images), tensors(exact, names, images))
    for name in names:
        if errors[name] > tolerance:
            return layer_of(makers[name], weights_of(exact)), errors[name]
    return None


def _errors(found: Iterable[Mapping[str, Array]], expected: Iterable[Mapping[str, Array]]) -> dict[str, float]:
    """Return the error of every tensor over all images; infinite where it holds NaN or infinity."""
    changes: defaultdict[str, float] = defaultdict(float)
    spreads: defaultdict[str, Spread] = defaultdict(Spread)
    with np.errstate(invalid="ignore", over="ignore"):
        for values, exact in zip(found, expected, strict=True):
            for name, reference in exact.items():
                changes[name] += float(mean_squares(difference(values[name], reference)).sum())
                spreads[name].see(reference)
        return {name: _ratio(changes[name], spread) for name, spread in spreads.items()}


def _ratio(change: float, spread: Spread) -> float:
    usual = spread.usual * spread.images
    error = float(np.sqrt(change / usual)) if usual else float(change > 0)
    return np.inf if np.isnan(error) else error
