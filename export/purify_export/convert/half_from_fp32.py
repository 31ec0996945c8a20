"""Convert float32 graphs to float16 or bfloat16; chosen nodes stay in float32.

`onnxruntime.transformers.float16` does the like, but it casts what passes from one node that is left in float32 to the
next to float16 and back, so that the overflow it was left for happens all the same; and it knows no bfloat16.
"""

from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper, version_converter

from purify_edge.errors import BuildError
from purify_export.convert.graphs import casts, emptied, typed, weights_of

Half = Literal["fp16", "bf16"]
NOT_BUILT: dict[str, tuple[str, ...]] = {"fp16": (), "bf16": ("ConvTranspose", "HardSwish", "LpNormalization", "Mish")}
"""Operators that ONNX knows in a type and TensorRT refuses in it: its parser, for ConvTranspose its builder."""
BF16_OPSET = 22  # convolutions and pooling take bfloat16 from here on


@dataclass(frozen=True)
class Format:
    """A 16-bit floating-point type: its name, its largest number, and what ONNX, ONNX's schemas and numpy call it."""

    name: str
    largest: float
    onnx: int
    text: str
    numpy: type[np.generic]


FORMATS: dict[Half, Format] = {
    "fp16": Format("float16", (2 - 2**-10) * 2.0**15, TensorProto.FLOAT16, "tensor(float16)", np.float16),
    "bf16": Format("bfloat16", (2 - 2**-7) * 2.0**127, TensorProto.BFLOAT16, "tensor(bfloat16)", ml_dtypes.bfloat16),
}


def half_from_fp32(model: onnx.ModelProto, to: Half, *, keep: Collection[str] = ()) -> onnx.ModelProto:
    """Convert a float32 graph, but for the nodes to keep; its input and its output stay float32.

    Casts stand only where a tensor passes between the two types, so between two neighbours in float32 there is none.
    A node stays in float32 as well if its operator does not take the type (by ONNX's schema), or takes no floats.

    Raises:
        BuildError: the graph holds control flow.
    """
    return _Conversion(in_opset_of(model, to), to, frozenset(keep)).result()


def in_opset_of(model: onnx.ModelProto, to: Half) -> onnx.ModelProto:
    """Return the graph in an opset whose operators take the type, or raise BuildError; nodes keep their names."""
    if to == "fp16":
        return model
    try:
        return version_converter.convert_version(model, BF16_OPSET)
    except RuntimeError as error:
        raise BuildError(
            f"the graph cannot be made into a {to} one: ONNX cannot bring it to opset {BF16_OPSET} ({error}); "
            f"leave {to} out"
        ) from error


class _Conversion:
    """The conversion of one graph; `types` grows with the tensors of the new graph."""

    def __init__(self, source: onnx.ModelProto, to: Half, keep: frozenset[str]) -> None:
        self.source, self.keep = source, keep
        self.suffix, self.format = to, FORMATS[to]
        self.original, self.known = weights_of(source), typed(source)
        self.outputs = {value.name for value in source.graph.output}
        (self.opset,) = (entry.version for entry in source.opset_import if not entry.domain)
        self.types = {name: kind for name, kind in self.known.items() if kind == TensorProto.FLOAT}
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}

    def result(self) -> onnx.ModelProto:
        for node in self.source.graph.node:
            self.convert(node)
        model = emptied(self.source)
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend(self.weights.values())
        return model

    def convert(self, source: onnx.NodeProto) -> None:
        """Append a node in its type, between the casts that its inputs and its outputs need."""
        if any(attribute.HasField("g") or attribute.graphs for attribute in source.attribute):
            raise BuildError(
                f"{source.name} ({source.op_type}) is control flow, which no {self.suffix} graph is made of; "
                "export in fp32 alone, or write the network without it"
            )
        indices = half_inputs(source, self.known, self.opset, self.suffix) if source.name not in self.keep else []
        node = deepcopy(source)
        node.input[:] = [self.operand(name, index in indices) for index, name in enumerate(source.input)]
        self.nodes.append(node)
        if indices:
            for index, name in enumerate(source.output):
                self.give(node, index, name)

    def give(self, node: onnx.NodeProto, index: int, name: str) -> None:
        """Give an output the type; the graph's own output stays float32, behind a cast."""
        if self.known.get(name) != TensorProto.FLOAT:
            return
        if name in self.outputs:
            node.output[index] = f"{name}_{self.suffix}"
            self.types[node.output[index]] = self.format.onnx
            self.cast(node.output[index], name, TensorProto.FLOAT)
        else:
            self.types[name] = self.format.onnx

    def operand(self, name: str, half: bool) -> str:
        """Return the name of a float tensor in the wanted type; a cast is added if there is none."""
        wanted = self.format.onnx if half else TensorProto.FLOAT
        if name in self.original:
            return self.weight(name, half and name in self.types)
        if name not in self.types or self.types[name] == wanted:
            return name
        other = f"{name}_{self.suffix if half else 'fp32'}"
        if other not in self.types:
            self.cast(name, other, wanted)
        return other

    def cast(self, name: str, other: str, to: int) -> None:
        self.nodes.append(helper.make_node("Cast", [name], [other], name=f"cast_{other}", to=to))
        self.types[other] = to

    def weight(self, name: str, half: bool) -> str:
        tensor = self.original[name]
        if half:
            with np.errstate(over="ignore"):
                values = numpy_helper.to_array(tensor).astype(self.format.numpy)
            name = f"{name}_{self.suffix}"
            tensor = TensorProto(name=name, data_type=self.format.onnx, dims=values.shape, raw_data=values.tobytes())
        self.weights[name] = tensor
        return name


def half_inputs(node: onnx.NodeProto, types: Mapping[str, int], opset: int, to: Half) -> list[int]:
    """Return the indices of the inputs that a node takes in 16 bits; none if it has to stay in float32.

    ONNX's schema of the operator decides: a Resize takes the image in 16 bits, for example, but not the scales.
    """
    floats = [index for index, name in enumerate(node.input) if types.get(name) == TensorProto.FLOAT]
    try:
        schema = defs.get_schema(node.op_type, opset, node.domain)
    except defs.SchemaError:
        return []
    if node.op_type in ("Cast", *NOT_BUILT[to]) or not floats:
        return []
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    formal = [schema.inputs[min(index, len(schema.inputs) - 1)].type_str for index in floats]  # the last: of many
    fitting = [index for index, text in zip(floats, formal, strict=True) if FORMATS[to].text in allowed.get(text, [])]
    return fitting if floats[0] in fitting else []


def rounding_from_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 graph that gives the numbers of a 16-bit one, for where 16-bit operators cannot run.

    Each tensor that was of 16 bits is rounded to them: tensor cores too multiply and add in float32 and round results;
    only the order of their sums differs.
    """
    kinds = {form.onnx for form in FORMATS.values()}
    types, result = typed(model), emptied(model)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        wide = values.astype(np.float32) if tensor.data_type in kinds else values
        result.graph.initializer.append(numpy_helper.from_array(wide, tensor.name))
    for node in model.graph.node:
        result.graph.node.extend(_rounded(node, {name: types[name] for name in node.output if types[name] in kinds}))
    return result


def _rounded(node: onnx.NodeProto, outputs: dict[str, int]) -> list[onnx.NodeProto]:
    """Return a node whose 16-bit outputs are rounded."""
    exact = deepcopy(node)
    if node.op_type == "Cast" and outputs:
        exact.op_type = "Identity"
        exact.ClearField("attribute")
    exact.output[:] = [f"{name}_exact" if name in outputs else name for name in node.output]
    rounding = [casts(f"{name}_exact", name, kind, f"{name}_short") for name, kind in outputs.items()]
    return [exact, *(node for pair in rounding for node in pair)]
