"""fp32 ONNX to explicit INT8: quantise and dequantise around the layers with weights, the rest in float32.

ONNX Runtime quantises statically, in the form that TensorRT takes and no other: symmetric, weights per channel, bias as
it is, and only the inputs of layers quantised, so that a ReLU or an addition fuses with the layer before it. The rest
of the graph is float32 on purpose: a strongly typed TensorRT network keeps it so, and ONNX Runtime runs it anywhere.
"""

import logging
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import onnx

from purify_export.graphs import Array, in_parts, weights_of

OPERATORS = ("Conv", "Gemm", "MatMul")
"""What is quantised. A transposed convolution is not: TensorRT is known to lose accuracy or refuse it in INT8."""


def quantisable(model: onnx.ModelProto) -> list[str]:
    """The names of the nodes that INT8 can hold: those with weights, in the order of the graph."""
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

    given = onnx.ModelProto()  # a copy: quantize_static moves the weights of what it is given to a file
    given.CopyFrom(model)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises to preprocess, which the exporter has done, on the root logger
    try:
        with tempfile.TemporaryDirectory(prefix="purify-int8-") as folder:
            path = Path(folder) / "int8.onnx"
            quantize_static(
                given,
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
    """The quantised graph with some layers as they are in the float32 graph it was made from."""
    exact = {node.name: node for node in model.graph.node if node.name in set(names)}
    result = onnx.ModelProto()
    result.CopyFrom(quantised)
    nodes = [exact.get(node.name, node) for node in quantised.graph.node]
    wanted = {value.name for value in result.graph.output}
    kept = []
    for node in reversed(nodes):  # what nothing takes any more falls away
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    tensors = weights_of(quantised) | weights_of(model)
    for part in ("node", "initializer"):
        result.graph.ClearField(part)
    result.graph.node.extend(reversed(kept))
    result.graph.initializer.extend(tensor for name, tensor in tensors.items() if name in wanted)
    return result


def quantised_layers(model: onnx.ModelProto) -> list[str]:
    """The names of the nodes whose weights come out of a DequantizeLinear."""
    dequantised = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    nodes = [node for node in model.graph.node if node.op_type in OPERATORS]
    return [node.name for node in nodes if any(name in dequantised for name in node.input[1:2])]
