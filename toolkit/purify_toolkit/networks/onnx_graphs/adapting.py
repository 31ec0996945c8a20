"""A user's graph in the form that pixels need: float32 `[N, C, H, W]` -> logits `[N, K]`, any N."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx_ir
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass

from purify_edge.errors import InputError, reason
from purify_toolkit.networks.onnx_graphs.frame import behind, in_front, named
from purify_toolkit.networks.onnx_graphs.reading import dimensions, image_input, logits_output

Array = NDArray[np.float32]
TYPES: dict[int, str] = {TensorProto.FLOAT: "f4", TensorProto.FLOAT16: "f2", TensorProto.DOUBLE: "f8"}
ALIKE = ("Identity", "Cast")  # what may stand behind the last softmax
BATCH = "export it with a dynamic batch (dynamic_axes or dynamic_shapes of torch.onnx.export, `-1` or `None` elsewhere)"


@dataclass(frozen=True)
class PixelForm:
    """An adapted graph, and how its input and output were related to the file's."""

    model: ModelProto
    output: str  # the file's output that gives the logits
    layout: Literal["NCHW", "NHWC"]
    dtype: int  # the type of element that the file takes
    batch: int  # that the file takes; 0 for any
    activation: Literal["", "Softmax", "Sigmoid"]  # cut off behind the logits

    def given(self, x_NCHW: Array) -> NDArray[np.generic]:
        """Return images as the file takes them."""
        x = x_NCHW if self.layout == "NCHW" else x_NCHW.transpose(0, 2, 3, 1)
        if self.dtype == TensorProto.UINT8:
            return (255 * x).round().astype(np.uint8)
        return x.astype(TYPES[self.dtype])

    def answer(self, logits: Array) -> Array:
        """Return what the file makes of logits."""
        if self.activation == "Sigmoid":
            return np.asarray(1 / (1 + np.exp(-logits)))
        if self.activation == "Softmax":
            powers = np.exp(logits - logits.max(1, keepdims=True))
            return np.asarray(powers / powers.sum(1, keepdims=True))
        return logits


def pixel_form(original: ModelProto, *, channels: int, source: str) -> PixelForm:
    """Return a graph with adapters in front and behind; its own nodes and weights stay, but for a last softmax.

    Raises:
        InputError: it takes something else than images of so many channels, or gives something else than logits.
    """
    image, logits = image_input(original, source), logits_output(original, source)
    layout = _layout(dimensions(image), channels, source)
    dtype, batch = image.type.tensor_type.elem_type, dimensions(image)[0]
    if dtype not in (*TYPES, TensorProto.UINT8):
        given = TensorProto.DataType.Name(dtype).lower()
        raise InputError(f"{source} takes images of {given}, expected floats or uint8")
    model = _alone(original, image.name, logits.name)
    graph = model.graph
    nodes = len(graph.node)
    activation = _cut(graph)
    was_cast = nodes - len(graph.node) > 1  # a Cast behind the softmax may have gone with it
    if batch:
        _free_batch(model, batch)
    _frame_input(graph, layout, dtype)
    _frame_output(model, TensorProto.UNDEFINED if was_cast else logits.type.tensor_type.elem_type)
    named(model, "images", "logits")
    try:
        onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except Exception as error:  # the checker's exceptions share no base but Exception
        why = f"it takes batches of {batch} alone: {BATCH}" if batch else f"export it for floats ({reason(error)})"
        raise InputError(f"{source} cannot be given any number of images of floats: {why}") from error
    return PixelForm(model, logits.name, layout, dtype, batch, activation)


def _layout(shape: list[int], channels: int, source: str) -> Literal["NCHW", "NHWC"]:
    if len(shape) == 4 and shape[1] in (channels, 0) and (shape[1] or shape[3] != channels):
        return "NCHW"
    if len(shape) == 4 and shape[3] == channels:
        return "NHWC"
    raise InputError(
        f"{source} takes {shape} (0 for any), expected images of {channels} channels: [N, {channels}, H, W] or "
        f"[N, H, W, {channels}]; channels in the recipe says how many the images are given"
    )


def _alone(original: ModelProto, image: str, logits: str) -> ModelProto:
    """Return a copy that leads from the images to the logits alone, without traces of who made it."""
    model = ModelProto()
    model.CopyFrom(original)
    for values, name in ((model.graph.input, image), (model.graph.output, logits)):
        kept = [value for value in values if value.name == name]
        del values[:]
        values.extend(kept)
    tidy = Sequential(RemoveUnusedNodesPass(), ClearMetadataAndDocStringPass())(onnx_ir.from_proto(model)).model
    tidy.metadata_props.clear()
    result = onnx_ir.to_proto(tidy)
    result.graph.ClearField("value_info")
    return result


def _cut(graph: GraphProto) -> Literal["", "Softmax", "Sigmoid"]:
    """Cut a softmax off the end, or the sigmoid of a single output; return which."""
    makers = {name: node for node in graph.node for name in node.output}
    name, passed = graph.output[0].name, list[NodeProto]()
    while name in makers and makers[name].op_type in ALIKE:
        passed.append(makers[name])
        name = makers[name].input[0]
    last, classes = makers.get(name), dimensions(graph.output[0])[1:2]
    axis = {entry.name: entry.i for entry in last.attribute}.get("axis", -1) if last is not None else 0
    is_softmax = last is not None and last.op_type == "Softmax" and axis in (-1, 1)
    is_sigmoid = last is not None and last.op_type == "Sigmoid" and classes == [1]
    if last is None or not (is_softmax or is_sigmoid):
        return ""
    for node in (*passed, last):
        graph.node.remove(node)
    graph.output[0].name = last.input[0]
    return "Softmax" if is_softmax else "Sigmoid"


def _free_batch(model: ModelProto, batch: int) -> None:
    """Have each Reshape that fixes the batch take it from its input; the proof shows whether that was all."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: dimensions(value) for value in (*inferred.input, *inferred.value_info, *inferred.output)}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    weights |= {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    for node in model.graph.node:
        if node.op_type != "Reshape" or node.input[1] not in weights:
            continue
        target = numpy_helper.to_array(weights[node.input[1]]).copy()
        if not len(target) or 0 in target or target[0] < 0 or target[0] % batch:
            continue
        # 0: not known, the batch as a rule
        is_kept = shapes.get(node.input[0], [])[:1] in ([], [0], [target[0]])
        if is_kept or -1 not in target:
            target[0] = 0 if is_kept else -1
            del node.attribute[:]  # allowzero, with which 0 were no size to keep
            name = f"{node.input[1]}.any_batch.{node.output[0]}"
            model.graph.initializer.append(numpy_helper.from_array(target, name))
            node.input[1] = name


def _frame_input(graph: GraphProto, layout: Literal["NCHW", "NHWC"], dtype: int) -> None:
    image = graph.input[0]
    sides = [one.dim_value or None for one in image.type.tensor_type.shape.dim][1:]
    channels, height, width = sides if layout == "NCHW" else (sides[2], *sides[:2])
    shape = ["batch", channels, height or "height", width or "width"]
    image.CopyFrom(helper.make_tensor_value_info(image.name, TensorProto.FLOAT, shape))
    if layout == "NHWC":
        in_front(graph, "Transpose", perm=[0, 2, 3, 1])
    if dtype == TensorProto.UINT8:
        in_front(graph, "Mul", np.array(255, np.float32))
    elif dtype != TensorProto.FLOAT:
        in_front(graph, "Cast", to=dtype)


def _frame_output(model: ModelProto, dtype: int) -> None:
    """Make the output, of a type that may be unknown, float32 `[N, K]`."""
    graph, answer = model.graph, model.graph.output[0]
    shape = dimensions(answer)
    if dtype != TensorProto.FLOAT:
        behind(graph, "Cast", to=TensorProto.FLOAT)
    if len(shape) > 2 and set(shape[2:]) == {1}:
        behind(graph, "Flatten", axis=1)
    classes = shape[1] if len(shape) > 1 else 0
    graph.output[0].CopyFrom(
        helper.make_tensor_value_info(answer.name, TensorProto.FLOAT, ["batch", classes or "classes"])
    )
