"""ONNX graphs: composing two, naming layers, and running one with all its tensors in sight."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, shape_inference

from purify_edge.engines.onnxruntime import require

Array = NDArray[np.float32]
BATCH_PIXELS = 64 * 28 * 28  # images at once, with every tensor of the graph kept: fewer where they are large
QUIET = 3
SAME = 1e-6  # of a tensor's size: what float32 makes of sums in another order is less than that


@dataclass(frozen=True)
class Layer:
    """A node of a graph as reports name it."""

    node: str
    operator: str
    weight: str = ""

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}{f' of {self.weight}' if self.weight else ''})"


def layer_of(node: onnx.NodeProto, weights: Iterable[str]) -> Layer:
    """Return the layer of a node; its first weight carries the PyTorch module's name."""
    known = set(weights)
    weight = next((name for name in node.input if name in known), "")
    return Layer(node.name, node.op_type, weight)


def weights_of(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the initialisers by their names."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def typed(model: onnx.ModelProto) -> dict[str, int]:
    """Return every tensor's element type by the tensor's name; shapes are inferred for it."""
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {name: tensor.data_type for name, tensor in weights_of(model).items()}


def composed(purifier: onnx.ModelProto, classifier: onnx.ModelProto) -> onnx.ModelProto:
    """Return one graph of the classifier after the purifier; names in it begin with `purifier/` or `classifier/`.

    Its input keeps the name of the purifier's, its output that of the classifier's: `images` and `logits`.
    """
    (image,), (answer,) = purifier.graph.input, classifier.graph.output
    (middle,), (start,) = purifier.graph.output, classifier.graph.input
    joined = compose.merge_models(
        purifier,
        classifier,
        io_map=[(middle.name, start.name)],
        prefix1="purifier/",
        prefix2="classifier/",
        name="defended",
    )
    new = {f"purifier/{image.name}": image.name, f"classifier/{answer.name}": answer.name}
    for node in joined.graph.node:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
    joined.graph.input[0].name, joined.graph.output[0].name = image.name, answer.name
    for value in (*joined.graph.input, *joined.graph.output):  # composing gave each half's batch a name of its own
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    joined.graph.ClearField("value_info")
    for key in ("producer_name", "producer_version", "doc_string", "domain"):
        joined.ClearField(key)
    joined.ClearField("opset_import")  # one an exporter's graph each, and the same in both
    joined.opset_import.extend(purifier.opset_import)
    return joined


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return the graph with further tensors as outputs."""
    types, exposed = typed(model), deepcopy(model)
    there = {value.name for value in model.graph.output}
    for name in names:
        if name not in there:
            exposed.graph.output.append(helper.make_tensor_value_info(name, types[name], None))
    return exposed


def in_parts(images: Array) -> Iterator[Array]:
    """Yield images `[N, C, H, W]` in parts that leave room for every tensor of a graph."""
    size = max(1, BATCH_PIXELS // (images.shape[2] * images.shape[3]))
    return (images[start : start + size] for start in range(0, len(images), size))


def tensors(
    model: onnx.ModelProto, names: Sequence[str], images: Array, *, optimised: bool = False
) -> Iterator[Mapping[str, Array]]:
    """Yield the values of tensors for images `[N, C, H, W]`, part by part, from ONNX Runtime on the CPU.

    The graph is run as it is written, without ONNX Runtime's optimisations, which would merge nodes; `optimised`, for
    its outputs alone, runs it faster, but still computes what is quantised as written and not in integers.
    """
    onnxruntime = require()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    content = with_outputs(model, names).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for part in in_parts(images):
        values = session.run(list(names), {model.graph.input[0].name: part})
        yield {
            name: np.atleast_1d(value.astype(np.float32, copy=False)) for name, value in zip(names, values, strict=True)
        }


def emptied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph without its nodes and weights, which a conversion is about to write anew."""
    result = deepcopy(model)
    for part in ("node", "initializer", "value_info"):
        result.graph.ClearField(part)
    return result


def casts(source: str, target: str, to: int, back: str) -> list[onnx.NodeProto]:
    """Return the two nodes that round a float32 tensor to another type; `back` is the tensor in between."""
    return [
        helper.make_node("Cast", [source], [back], name=f"round_{back}", to=to),
        helper.make_node("Cast", [back], [target], name=f"round_{target}", to=TensorProto.FLOAT),
    ]


def float_outputs(model: onnx.ModelProto) -> list[str]:
    """Return the names of the floating-point tensors that nodes give, in the order of the graph."""
    types, kinds = typed(model), (TensorProto.FLOAT, TensorProto.FLOAT16)
    return [name for node in model.graph.node for name in node.output if name and types.get(name) in kinds]


class Spread:
    """A measure of how much a tensor differs between images, which may come part by part.

    Attributes:
        images: how many were seen.
    """

    def __init__(self) -> None:
        self.images = 0
        self._power = self._settled = self._squares = 0.0
        self._centre = self._shift = np.zeros((1, 0), np.float32)
        self._shifted = 0

    def see(self, values: Array) -> None:
        """Take in the tensor of some images, `[N, ...]`; infinite values, such as masks, count as 0."""
        values = np.where(np.isfinite(values), values, np.float32(0))
        if self._centre.shape[1:] != values.shape[1:]:  # the first part, or the batch is on another axis
            self._settled = self._between()
            self._centre = values.mean(axis=0, keepdims=True)
            self._shift, self._squares, self._shifted = np.zeros_like(self._centre), 0.0, 0
        moved = values - self._centre
        self._shift = self._shift + moved.sum(axis=0, keepdims=True)
        self._squares += float(mean_squares(moved).sum())
        self._power += float(mean_squares(values).sum())
        self._shifted += len(values)
        self.images += len(values)

    def _between(self) -> float:
        """Return the sum over the images of the mean square distance from their mean (variance by shifted data)."""
        if not self._shifted:
            return self._settled
        excess = float(mean_squares(self._shift).sum()) / self._shifted
        return self._settled + max(0.0, self._squares - excess)

    @property
    def usual(self) -> float:
        """The mean square that errors are measured against: of the differences between images.

        A tensor that is the same for all images is measured against its own mean square.
        """
        between = self._between()
        varies = not between <= SAME**2 * self._power
        return (between if varies else self._power) / max(1, self.images)


def difference(found: Array, expected: Array) -> Array:
    """Return the difference element by element; equal infinities do not differ."""
    return np.where(found == expected, np.float32(0), found - expected)


def mean_squares(values: Array) -> Array:
    """Return the mean square of each of N tensors, `[N, ...]` -> `[N]`."""
    rows = values.reshape(len(values), -1)
    squares: Array = np.einsum("ij,ij->i", rows, rows) / max(1, rows.shape[1])
    return squares
