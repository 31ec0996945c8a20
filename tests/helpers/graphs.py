"""ONNX graphs for tests of conversions: exporting, running, and networks that lower precisions cannot hold."""

import re
from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from purify_edge.engines.tensorrt.build import BuiltEngine, build_engine
from purify_edge.engines.tensorrt.library import TURING, installed_builders, load_library
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.errors import BuildError, InputError
from purify_export.convert.graphs import typed
from purify_export.convert.onnx_from_torch import onnx_from_torch


def export(module: nn.Module, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """The float32 graph, whose output is called `answer`."""
    return onnx_from_torch(module.eval(), image_shape=shape, output="answer")


def run(model: onnx.ModelProto, images: np.ndarray | torch.Tensor) -> np.ndarray:
    """What ONNX Runtime makes of images."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answer: np.ndarray = session.run(None, {"images": np.asarray(images, dtype=np.float32)})[0]
    return answer


def graph(nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A float32 graph of nodes from `images` `[N, 1, 2, 2]` to `answer`, of the same shape."""
    image, answer = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1, 2, 2]) for name in ("images", "answer")
    )
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    made = helper.make_graph(nodes, "test", [image], [answer], tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def node(operator: str, inputs: Sequence[str], output: str, **attributes: object) -> onnx.NodeProto:
    """A node called as its output."""
    return helper.make_node(operator, list(inputs), [output], name=output, **attributes)


class Hidden(nn.Module):
    """Grows past float16 and shrinks again, so that a sigmoid hides it: float16 gives 1 where it should give less."""

    def __init__(self) -> None:
        super().__init__()
        self.grow, self.shrink = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
        self.end = nn.Conv2d(1, 1, 1)
        for layer, weight in ((self.grow, 1e5), (self.shrink, 1e-5), (self.end, 1.0)):
            nn.init.constant_(layer.weight, weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, 1, H, W]`, the same shape."""
        answer: torch.Tensor = self.end(torch.sigmoid(self.shrink(self.grow(x))))
        return answer


class Outlier(nn.Module):
    """A classifier of 1 x 8 x 8 images with one channel a thousand times the others, which a single scale buries."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second, self.third, self.fourth = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(8, 3)
        with torch.no_grad():
            self.second.weight[0] *= 1000
            self.second.bias[0] = 1000
            self.third.weight[:, 0] = 0  # what the channel holds is of no use
            self.head.bias -= self(torch.rand(64, 1, 8, 8) * torch.rand(64, 1, 1, 1)).mean(
                dim=0
            )  # each class somewhere

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, 1, 8, 8] -> [N, 3]`."""
        y = self.third(torch.relu(self.second(torch.relu(self.first(x)))))
        logits: torch.Tensor = self.head(torch.relu(self.fourth(torch.relu(y))).mean(dim=(2, 3)))
        return logits


needs_rtx = pytest.mark.skipif("tensorrt_rtx" not in installed_builders(), reason="tensorrt-rtx is not installed")


CAPABILITIES = (TURING, "8.6", "8.9", "12.0")
"""Of the GPUs that what ships is built for in the tests."""
NO_WIDE_PRODUCTS = r"FP32 GEMM is not supported.*for compute capability 7\.5 .* --fp16"
"""How Turing refuses them."""


def built_by_rtx(
    model: onnx.ModelProto, precision: str, *capabilities: str, batch: tuple[int, int, int] = (1, 4, 8)
) -> BuiltEngine:
    """What TensorRT for RTX builds of a graph."""
    return build_engine(
        model.SerializeToString(),
        library=load_library("tensorrt_rtx"),
        options=BuildOptions(batch=batch, compute_capabilities=capabilities),
        precision=precision,
        source=f"the {precision} graph",
    )


def what_turing_lacks(model: onnx.ModelProto, precision: str) -> str:
    """The words (a regular expression) that refuse a graph for compute capability 7.5; empty where it is built."""
    if precision == "bf16":
        return r"7\.5 have no bf16, those from 8\.0 on do; leave out 7\.5"
    types = typed(model)
    dequantised = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")]
    wide = [node for node in products if types[node.input[0]] == TensorProto.FLOAT and node.input[0] not in dequantised]
    return NO_WIDE_PRODUCTS if wide else ""


def build_for_every_gpu(model: onnx.ModelProto, precision: str, batch: tuple[int, int, int]) -> None:
    """Build for each of CAPABILITIES; Turing's refusal is expected where that GPU lacks what the graph takes."""
    lacking = what_turing_lacks(model, precision)
    for capability in CAPABILITIES:
        if capability == TURING and lacking:
            with pytest.raises((BuildError, InputError), match=lacking):
                built_by_rtx(model, precision, capability, batch=batch)
            continue
        try:
            built = built_by_rtx(model, precision, capability, batch=batch)
        except BuildError as error:  # whether Turing takes a quantised product depends on its shape
            assert (capability, precision) == (TURING, "int8"), error
            assert re.search(NO_WIDE_PRODUCTS, str(error)), error
            continue
        assert len(built.content) > 1000
        assert built.fingerprint.compute_capabilities == (capability,)
        assert (built.fingerprint.precision, built.fingerprint.batch) == (precision, batch)
