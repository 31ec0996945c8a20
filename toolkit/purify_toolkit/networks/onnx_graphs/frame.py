"""Nodes in front of a graph and behind it, its own nodes and weights staying as they are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper, numpy_helper

OWN = "purify_edge"
"""What the names of added tensors and nodes begin with."""


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors, in inner graphs too."""
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                rename(inner, names)
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = names.get(value.name, value.name)


def in_front(graph: GraphProto, operator: str, *constants: NDArray[Any], **attributes: Any) -> None:
    """Have an operator change the graph's input before anything else does."""
    name = graph.input[0].name
    inner = _free(graph, f"{OWN}.{operator.lower()}")
    given = graph.input[0].SerializeToString()
    rename(graph, {name: inner})
    graph.input[0].ParseFromString(given)
    graph.node.insert(0, _node(graph, operator, name, inner, constants, attributes))


def behind(graph: GraphProto, operator: str, *constants: NDArray[Any], twice: bool = False, **attributes: Any) -> None:
    """Have an operator change the graph's output after all else; `twice` gives it to it as both operands."""
    name = graph.output[0].name
    inner = _free(graph, f"{OWN}.before_{operator.lower()}")
    given = graph.output[0].SerializeToString()
    rename(graph, {name: inner})
    graph.output[0].ParseFromString(given)
    node = _node(graph, operator, inner, name, constants, attributes)
    node.input.extend([inner] * twice)
    graph.node.append(node)


def two_classes(graph: GraphProto) -> None:
    """Put a logit of 0 before the only one, which makes two classes of a sigmoid's."""
    name = graph.output[0].name
    behind(graph, "Concat", axis=1)
    inner, zeros = graph.node[-1].input[0], f"{OWN}.zeros"
    graph.node.insert(len(graph.node) - 1, helper.make_node("Sub", [inner, inner], [zeros], name=zeros))
    graph.node[-1].input[:] = [zeros, inner]
    assert graph.node[-1].output[0] == name


def named(model: onnx.ModelProto, image: str, answer: str) -> None:
    """Give input and output their names; tensors that have them already get others."""
    graph = model.graph
    own = {graph.input[0].name: image, graph.output[0].name: answer}
    taken = {name for name in (image, answer) if name not in own}
    rename(graph, {name: _free(graph, f"{name}.inner") for name in taken})
    rename(graph, own)


def _node(
    graph: GraphProto,
    operator: str,
    given: str,
    made: str,
    constants: tuple[NDArray[Any], ...],
    attributes: Mapping[str, Any],
) -> NodeProto:
    name = _free(graph, f"{OWN}.{operator.lower()}_node")
    names = [f"{name}_{index}" for index in range(len(constants))]
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in zip(names, constants, strict=True)
    )
    return helper.make_node(operator, [given, *names], [made], name=name, **attributes)


def _free(graph: GraphProto, name: str) -> str:
    """Return a name that nothing in the graph has."""
    taken = {one for node in graph.node for one in (node.name, *node.output)}
    taken |= {value.name for value in (*graph.initializer, *graph.input)}
    return next(one for one in (name, *(f"{name}.{count}" for count in range(2, len(taken) + 3))) if one not in taken)
