"""Counting what a graph computes, for the roofline of `purify-bench`."""

from collections.abc import Mapping
from math import prod

import onnx
from onnx import shape_inference

Shapes = Mapping[str, tuple[int, ...]]


def flop(model: onnx.ModelProto) -> int:
    """Floating-point operations of one image: those of convolutions and matrix products, which are nearly all.

    A multiplication and an addition count as two. A convolution of C_in channels in g groups with a kernel of k
    elements takes 2 k C_in / g for each element of its output; a transposed one the same, with C_out, for each
    element of its input.
    """
    shapes = _shapes(model)
    return sum(_of(node, shapes) for node in model.graph.node)


def _shapes(model: onnx.ModelProto) -> Shapes:
    """The shape of every tensor for a batch of one; 1 where a size is not known."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    for value in single.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    for value in single.graph.output:
        value.type.tensor_type.shape.dim[0].Clear()
    single.graph.ClearField("value_info")
    graph = shape_inference.infer_shapes(single, data_prop=True).graph
    found = {
        value.name: tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    return found | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def _of(node: onnx.NodeProto, shapes: Shapes) -> int:
    if node.op_type == "Conv":
        return 2 * prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return 2 * prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul"):
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return 2 * prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else -1]
    return 0
