"""Convert float32 graphs to explicit INT8: quantised around the layers with weights, float32 elsewhere.

ONNX Runtime quantises statically, in the form that TensorRT takes and no other: symmetric, weights per channel, bias as
it is, and only the inputs of layers quantised, so that a ReLU or an addition fuses with the layer before it. Where a
layer takes a tensor in INT8, the residual addition that takes it as well does so too, for the same reason. The rest
of the graph is float32 on purpose: a strongly typed TensorRT network keeps it so, and ONNX Runtime runs it anywhere.
"""

import logging
import tempfile
from collections.abc import Collection, Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx

from purify_export.convert.graphs import Array, in_parts, weights_of
from purify_export.convert.onnx_from_torch import tidied

OPERATORS = ("Conv", "Gemm", "MatMul")
"""The operators that are quantised. Transposed convolution is not: TensorRT loses accuracy or refuses it in INT8."""


def quantisable(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that INT8 can hold: those with weights, in the order of the graph."""
    weights = weights_of(model)
    nodes = [node for node in model.graph.node if node.op_type in OPERATORS]
    return [node.name for node in nodes if any(name in weights for name in node.input[1:2])]


def int8_from_fp32(model: onnx.ModelProto, images: Array) -> onnx.ModelProto:
    """Quantise every layer that INT8 can hold; `with_float_layers` takes some of them back.

    Args:
        model: float32.
        images: float32 `[N, C, H, W]`, whose largest activations, layer by layer, set the ranges.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises to preprocess, which the exporter has done, on the root logger
    try:
        with tempfile.TemporaryDirectory(prefix="purify-int8-") as folder:
            path = Path(folder) / "int8.onnx"
            quantize_static(
                deepcopy(model),  # of what it is given it moves the weights to a file
                path,
                _reader(model.graph.input[0].name, images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                nodes_to_quantize=quantisable(model),
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "OpTypesToExcludeOutputQuantization": list(OPERATORS),
                },
            )
            quantised = onnx.load(path)
    finally:
        root.setLevel(level)
    quantised.graph.ClearField("value_info")
    for key in ("producer_name", "producer_version"):
        quantised.ClearField(key)
    return quantised


def _reader(name: str, images: Array) -> object:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped base
        def __init__(self) -> None:
            self._parts: Iterator[Array] = in_parts(images)

        def get_next(self) -> dict[str, Array] | None:
            part = next(self._parts, None)
            return None if part is None else {name: np.ascontiguousarray(part)}

    return Reader()


def with_float_layers(quantised: onnx.ModelProto, model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return the quantised graph with some layers as they are in the float32 graph.

    A tensor that no layer takes in INT8 any more is not quantised for the others either.
    """
    exact = {node.name: node for node in model.graph.node if node.name in set(names)}
    layers = set(quantised_layers(quantised)) - set(names)
    taken = {node.input[0] for node in quantised.graph.node if node.name in layers}
    source = {node.output[0]: node.input[0] for node in quantised.graph.node if node.op_type.endswith("uantizeLinear")}
    result = deepcopy(quantised)
    for node in result.graph.node:
        if node.name in exact:
            node.CopyFrom(exact[node.name])
        elif node.name not in layers and node.op_type != "DequantizeLinear":
            node.input[:] = [
                source[source[name]] if name in source and name not in taken else name for name in node.input
            ]
    there = weights_of(result)
    result.graph.initializer.extend(tensor for name, tensor in weights_of(model).items() if name not in there)
    return tidied(result)


def quantised_layers(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes whose weights come out of a DequantizeLinear."""
    dequantised = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    nodes = [node for node in model.graph.node if node.op_type in OPERATORS]
    return [node.name for node in nodes if any(name in dequantised for name in node.input[1:2])]
