"""The range scan: which layers float16 cannot hold, found by running the float32 graph on clean and adversarial images.

An overflow in the middle of a network may stay unseen at its end, behind a sigmoid, and it may be seen on adversarial
images only; and ONNX Runtime, which computes many float16 operators in float32 on a CPU, does not show it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from purify_export.graphs import Array, Layer, float_outputs, layer_of, mean_squares, tensors, typed, weights_of
from purify_export.half_from_fp32 import half_inputs

FLOAT16_MAX = float(np.finfo(np.float16).max)
MARGIN = 2.0  # other images than these may reach further
LARGEST = FLOAT16_MAX / MARGIN
MAX_LOSS = 0.01  # rounding to float16 costs some 0.0005 where nothing cancels and nothing is too small


@dataclass(frozen=True)
class Finding:
    """A layer that has to stay in float32, and why."""

    layer: Layer
    reason: str


@dataclass
class Extremes:
    """What is known of a tensor after the images seen so far.

    Attributes:
        largest: absolute value.
        centre: mean over the first images, element by element.
        spread: sum over the images of the mean square distance from it.
        images: their count.
        worst: the largest mean square, in an image, of what rounding the node's inputs and output to float16 changes.
    """

    largest: float = 0.0
    centre: Array | None = None
    spread: float = 0.0
    images: int = 0
    worst: float = 0.0

    def see(self, exact: Array, rounded: Array | None) -> None:
        """Take in a tensor of some images, `[N, ...]`, as float32 and as float16 has it."""
        self.largest = max(self.largest, float(exact.max(initial=0)), -float(exact.min(initial=0)))
        if self.centre is None:
            self.centre = exact.mean(axis=0, keepdims=True)
        self.spread += float(mean_squares(exact - self.centre).sum())
        self.images += len(exact)
        if rounded is not None:
            with np.errstate(invalid="ignore", over="ignore"):
                changes = np.nan_to_num(mean_squares(rounded - exact), nan=np.inf, posinf=np.inf)
            self.worst = max(self.worst, float(changes.max(initial=0)))

    @property
    def loss(self) -> float:
        """What rounding changes in the worst image, against what differs between images; a ratio of root mean squares.

        Against the tensor's size a small change could be all that tells one image from another.
        """
        usual = self.spread / max(1, self.images)
        return float(np.sqrt(self.worst / usual)) if usual else float("inf") if np.isinf(self.worst) else 0.0


def range_scan(model: onnx.ModelProto, image_sets: Mapping[str, Array]) -> list[Finding]:
    """The nodes of a float32 graph that have to stay in float32 in a float16 one, in the order of the graph.

    Those are the nodes that take or give a tensor that reaches beyond half of what float16 holds, those with such
    weights, and those whose result changes by more than 1% when just their inputs, weights and output are rounded.

    Args:
        model: float32, `[N, C, H, W]` in.
        image_sets: float32 images by the name of the set, `clean` and `adversarial`, say.
    """
    scans = {name: _extremes(model, images) for name, images in image_sets.items()}
    weights = {
        name: float(np.abs(numpy_helper.to_array(tensor)).max(initial=0))
        for name, tensor in weights_of(model).items()
        if tensor.data_type == TensorProto.FLOAT
    }
    findings = []
    for node in model.graph.node:
        reason = _out_of_range(node, weights, scans) or _lossy(node, scans)
        if reason:
            findings.append(Finding(layer_of(node, weights), reason))
    return findings


def _out_of_range(
    node: onnx.NodeProto, weights: Mapping[str, float], scans: Mapping[str, Mapping[str, Extremes]]
) -> str:
    for name in node.input:
        if weights.get(name, 0) > LARGEST:
            return f"its weight {name} reaches {weights[name]:.3g}, over {LARGEST:.0f}"
    for images, extremes in scans.items():
        for verb, names in (("gives", node.output), ("takes", node.input)):
            largest = max((extremes[name].largest for name in names if name in extremes), default=0)
            if not largest <= LARGEST:  # written so that NaN is out of range
                return f"it {verb} up to {largest:.3g} on {images} images, over {LARGEST:.0f}"
    return ""


def _lossy(node: onnx.NodeProto, scans: Mapping[str, Mapping[str, Extremes]]) -> str:
    for images, extremes in scans.items():
        loss = max((extremes[name].loss for name in node.output if name in extremes), default=0)
        if loss > MAX_LOSS:
            return f"float16 changes its result by {100 * loss:.2g}% on {images} images, over {100 * MAX_LOSS:g}%"
    return ""


def _extremes(model: onnx.ModelProto, images: Array) -> dict[str, Extremes]:
    """What every float tensor that a node gives does on images."""
    shadowed = _shadowed(model)
    there = {name for node in shadowed.graph.node for name in node.output}
    names = float_outputs(model)
    found = {name: Extremes() for name in names}
    rounded = {name: _short(name) for name in names if _short(name) in there}
    for values in tensors(shadowed, [*names, *rounded.values()], images):
        for name in names:
            found[name].see(values[name], values.get(rounded.get(name, "")))
    return found


def _short(name: str) -> str:
    return f"{name}@fp16"


def _shadowed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph, and beside each node the same node with inputs and outputs rounded, called `NAME@fp16`.

    The twin takes the exact inputs, rounded, not what other twins give: it shows what its own node loses.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    types, weights = typed(model), weights_of(model)
    (opset,) = (entry.version for entry in model.opset_import if not entry.domain)
    there: set[str] = set()
    for node in model.graph.node:
        indices = half_inputs(node, types, opset, "fp16")
        if not indices:
            continue
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name = f"{node.name}@twin"
        for index in indices:
            source = node.input[index]
            twin.input[index] = f"{source}@rounded"
            if twin.input[index] in there:
                continue
            there.add(twin.input[index])
            if source in weights:
                result.graph.initializer.append(_rounded_weight(weights[source], twin.input[index]))
            else:
                result.graph.node.extend(_round(source, twin.input[index]))
        twin.output[:] = [f"{name}@exact" if name else "" for name in node.output]
        result.graph.node.append(twin)
        for name in node.output:
            if types.get(name) == TensorProto.FLOAT:
                result.graph.node.extend(_round(f"{name}@exact", _short(name)))
    return result


def _round(source: str, target: str) -> list[onnx.NodeProto]:
    half = f"{target}@half"
    return [
        helper.make_node("Cast", [source], [half], name=f"cast {half}", to=TensorProto.FLOAT16),
        helper.make_node("Cast", [half], [target], name=f"cast {target}", to=TensorProto.FLOAT),
    ]


def _rounded_weight(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    with np.errstate(over="ignore"):
        rounded = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
    return numpy_helper.from_array(rounded, name)
