"""The graph of a classifier that came as one, as bundles hold it: pixels in [0, 1] -> logits of two classes or more."""

import numpy as np
import onnx
from onnx import ModelProto, version_converter
from torch import Tensor

from purify_edge.errors import BuildError, reason
from purify_toolkit.networks.graph_network import ImageShape
from purify_toolkit.networks.onnx_graphs.frame import in_front, two_classes
from purify_toolkit.networks.onnx_graphs.reading import dimensions


def pixel_graph(
    given: ModelProto, image_shape: ImageShape, *, mean: Tensor, std: Tensor, opset: int, flipped: bool = False
) -> ModelProto:
    """Return a graph with the normalisation in front of it, at least of an opset, its image's size fixed.

    With `flipped`, its pixels are RGB and those of the given graph BGR.

    Raises:
        BuildError: it does not take images of that size, or cannot be brought to the opset.
    """
    model = ModelProto()
    model.CopyFrom(given)
    graph = model.graph
    for side, size in zip(graph.input[0].type.tensor_type.shape.dim[1:], image_shape, strict=True):
        if side.dim_value not in (0, size):
            raise BuildError(f"the classifier takes images of {dimensions(graph.input[0])[1:]}, not {[*image_shape]}")
        side.dim_value = size
    if (std != 1).any():
        in_front(graph, "Div", std.view(1, -1, 1, 1).numpy())
    if mean.any():
        in_front(graph, "Sub", mean.view(1, -1, 1, 1).numpy())
    if flipped:
        in_front(graph, "Gather", np.array([2, 1, 0]), axis=1)
    try:
        if opset_of(model) < opset:
            model = version_converter.convert_version(model, opset)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:  # neither's exceptions share a base but Exception
        raise BuildError(f"the classifier's graph cannot be brought to opset {opset}: {reason(error)}") from error
    classes = dimensions(inferred.graph.output[0])[1]
    if classes == 1:
        two_classes(model.graph)
    if classes:
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = max(2, classes)
    return model


def opset_of(model: ModelProto) -> int:
    """Return the version of ONNX's own operators that a graph is written in."""
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def raised(model: ModelProto, opset: int) -> ModelProto:
    """Return a graph of ours in a later opset."""
    return version_converter.convert_version(model, opset) if opset_of(model) < opset else model
