"""The range scan: which layers 16 bits cannot hold, found by running the float32 graph on clean and adversarial images.

An overflow in the middle of a network may stay unseen at its end, behind a sigmoid, and it may be seen on adversarial
images only; and ONNX Runtime, which computes many float16 operators in float32 on a CPU, does not show it.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from purify_export.convert.graphs import (
    Array,
    Layer,
    Spread,
    casts,
    difference,
    float_outputs,
    layer_of,
    mean_squares,
    tensors,
    typed,
    weights_of,
)
from purify_export.convert.half_from_fp32 import FORMATS, Half, half_inputs, in_opset_of
from purify_export.progress import Tell, counted, silent

MARGIN = 2.0  # other images than these may reach further
LARGEST: dict[Half, float] = {to: form.largest / MARGIN for to, form in FORMATS.items()}
MAX_LOSS: dict[Half, float] = {"fp16": 0.01, "bf16": 0.005}
"""Where nothing cancels and nothing is too small, rounding costs some 0.0005 in float16 and 0.004 in bfloat16. There
all layers lose alike, and those that lose most are the first, which take an image in hardly more than its 8 bits."""


@dataclass(frozen=True)
class LossyLayer:
    """A layer that has to stay in float32, and why."""

    layer: Layer
    reason: str


@dataclass
class Extremes:
    """The extremes of a tensor over the images seen so far."""

    largest: float = 0.0  # absolute value
    spread: Spread = field(default_factory=Spread)  # what differs between images
    # the largest mean square, in an image, of what rounding the node's inputs and output to 16 bits changes
    worst: float = 0.0

    def see(self, exact: Array, rounded: Array | None) -> None:
        """Take in a tensor of some images, `[N, ...]`, as float32 and as the 16-bit type has it."""
        self.largest = float(np.maximum(self.largest, np.abs(exact).max(initial=0)))  # NaN stays
        with np.errstate(invalid="ignore", over="ignore"):
            self.spread.see(exact)
            if rounded is not None:
                changes = np.nan_to_num(mean_squares(difference(rounded, exact)), nan=np.inf, posinf=np.inf)
                self.worst = max(self.worst, float(changes.max(initial=0)))

    @property
    def loss(self) -> float:
        """The change by rounding in the worst image: a ratio of root mean squares to the differences between images.

        Against the tensor's size a small change could be all that tells one image from another.
        """
        usual = self.spread.usual
        return float(np.sqrt(self.worst / usual)) if usual else float("inf") if np.isinf(self.worst) else 0.0


def range_scan(
    model: onnx.ModelProto, image_sets: Mapping[str, Array], to: Half = "fp16", *, note: Tell = silent
) -> list[LossyLayer]:
    """Return the nodes of a float32 graph that have to stay in float32 in a 16-bit one, in the order of the graph.

    Those are the nodes that take or give a tensor that reaches beyond half of what the type holds, those with such
    weights, and those whose result changes by more than MAX_LOSS when just inputs, weights and output are rounded.

    Raises:
        BuildError: see `in_opset_of`.
    """
    model = in_opset_of(model, to)
    sets = counted(image_sets.items(), len(image_sets), f"ranges of {model.graph.output[0].name}, images", note)
    scans = {name: _extremes(model, images, to) for name, images in sets}
    weights = {
        name: float(np.abs(numpy_helper.to_array(tensor)).max(initial=0))
        for name, tensor in weights_of(model).items()
        if tensor.data_type == TensorProto.FLOAT
    }
    findings = []
    for node in model.graph.node:
        reason = _out_of_range(node, weights, scans, to) or _lossy(node, scans, to)
        if reason:
            findings.append(LossyLayer(layer_of(node, weights), reason))
    return findings


def _out_of_range(
    node: onnx.NodeProto, weights: Mapping[str, float], scans: Mapping[str, Mapping[str, Extremes]], to: Half
) -> str:
    limit = LARGEST[to]
    for name in node.input:
        if not weights.get(name, 0) <= limit:  # written so that NaN is out of range
            return f"its weight {name} reaches {weights[name]:.3g}, over {limit:.5g}"
    for images, extremes in scans.items():
        for verb, names in (("gives", node.output), ("takes", node.input)):
            largest = max((extremes[name].largest for name in names if name in extremes), default=0)
            if not largest <= limit:
                return f"it {verb} up to {largest:.3g} on {images} images, over {limit:.5g}"
    return ""


def _lossy(node: onnx.NodeProto, scans: Mapping[str, Mapping[str, Extremes]], to: Half) -> str:
    for images, extremes in scans.items():
        loss = max((extremes[name].loss for name in node.output if name in extremes), default=0)
        if loss > MAX_LOSS[to]:
            name, limit = FORMATS[to].name, 100 * MAX_LOSS[to]
            return f"{name} changes its result by {100 * loss:.2g}% on {images} images, over {limit:g}%"
    return ""


def _extremes(model: onnx.ModelProto, images: Array, to: Half) -> dict[str, Extremes]:
    """Return the extremes of every float tensor that a node gives."""
    shadowed = _shadowed(model, to)
    there = {name for node in shadowed.graph.node for name in node.output}
    names = float_outputs(model)
    found = {name: Extremes() for name in names}
    rounded = {name: _short(name) for name in names if _short(name) in there}
    for values in tensors(shadowed, [*names, *rounded.values()], images):
        for name in names:
            found[name].see(values[name], values.get(rounded.get(name, "")))
    return found


def _short(name: str) -> str:
    return f"{name}@short"


def _shadowed(model: onnx.ModelProto, to: Half) -> onnx.ModelProto:
    """Return the graph with a twin beside each node, whose inputs and outputs are rounded, called `NAME@short`.

    The twin takes the exact inputs, rounded, not what other twins give: it shows what its own node loses.
    """
    result = deepcopy(model)
    types, weights = typed(model), weights_of(model)
    (opset,) = (entry.version for entry in model.opset_import if not entry.domain)
    there: set[str] = set()
    for node in model.graph.node:
        indices = half_inputs(node, types, opset, to)
        if not indices:
            continue
        twin = deepcopy(node)
        twin.name = f"{node.name}@twin"
        for index in indices:
            source = node.input[index]
            twin.input[index] = f"{source}@rounded"
            if twin.input[index] in there:
                continue
            there.add(twin.input[index])
            if source in weights:
                result.graph.initializer.append(_rounded_weight(weights[source], twin.input[index], to))
            else:
                result.graph.node.extend(_round(source, twin.input[index], to))
        twin.output[:] = [f"{name}@exact" if name else "" for name in node.output]
        result.graph.node.append(twin)
        for name in node.output:
            if types.get(name) == TensorProto.FLOAT:
                result.graph.node.extend(_round(f"{name}@exact", _short(name), to))
    return result


def _round(source: str, target: str, to: Half) -> list[onnx.NodeProto]:
    return casts(source, target, FORMATS[to].onnx, f"{target}@half")


def _rounded_weight(tensor: onnx.TensorProto, name: str, to: Half) -> onnx.TensorProto:
    with np.errstate(over="ignore"):
        rounded = numpy_helper.to_array(tensor).astype(FORMATS[to].numpy).astype(np.float32)
    return numpy_helper.from_array(rounded, name)
