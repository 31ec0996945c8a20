"""Classifiers as other libraries leave them: in files and folders, with random weights."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from purify_edge.engines.onnxruntime import require
from purify_toolkit.networks.pixel_classifier import PixelClassifier
from purify_toolkit.networks.user_classifier import ClassifierSource, build_classifier

SIZE, CLASSES = 32, ("cat", "dog", "owl", "yak")
BATCH = torch.export.Dim("batch")


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A network with the same random weights each time, batch normalisation away from the identity, in evaluation."""
    torch.manual_seed(0)
    network = make()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def small(outputs: int = 4, end: nn.Module | None = None) -> nn.Module:
    """A small network with batch normalisation."""

    def make() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 16, 3, 2, 1)),
            *(nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, outputs), end or nn.Identity()),
        )

    return seeded(make)


def onnx_of(
    network: nn.Module,
    *,
    opset: int = 18,
    older: bool = False,
    batch: bool = True,
    size: int = SIZE,
    channels: int = 3,
) -> bytes:
    """The graph that one of torch's exporters makes."""
    x, buffer = torch.rand(2 if batch else 1, channels, size, size), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not older:
            shapes = ({0: BATCH},) if batch else None
            program = torch.onnx.export(
                network, (x,), dynamo=True, opset_version=opset, dynamic_shapes=shapes, verbose=False
            )
            return program.model_proto.SerializeToString()
        axes = {"images": {0: "n"}, "answer": {0: "n"}} if batch else None
        names = {"input_names": ["images"], "output_names": ["answer"], "dynamic_axes": axes}
        torch.onnx.export(network, (x,), buffer, dynamo=False, opset_version=opset, **names)
    return buffer.getvalue()


def keras_like(path: Path, *, uint8: bool = False, softmax: bool = True, batch: int = 0) -> None:
    """A graph as tf2onnx writes those of Keras: NHWC, transposed inside, a softmax last; uint8 where so exported."""
    random = np.random.default_rng(66)  # by whose weights each class is the answer for some image

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), name)

    weights = [weight("conv/kernel", 8, 3, 3, 3), weight("conv/bias", 8), weight("dense/kernel", 8, 4)]
    scale = numpy_helper.from_array(np.array(1 / 255, np.float32), "scale")
    front = [("Cast", ["input"], "cast", {"to": TensorProto.FLOAT}), ("Mul", ["cast", "scale"], "x", {})]
    steps = [
        *(front if uint8 else []),
        ("Transpose", ["x" if uint8 else "input"], "nchw", {"perm": [0, 3, 1, 2]}),
        ("Conv", ["nchw", "conv/kernel", "conv/bias"], "conv", {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("Relu", ["conv"], "relu", {}),
        ("GlobalAveragePool", ["relu"], "pooled", {}),
        ("Reshape", ["pooled", "shape"], "flat", {}),
        ("MatMul", ["flat", "dense/kernel"], "dense" if softmax else "answer", {}),
        *([("Softmax", ["dense"], "answer", {"axis": -1})] if softmax else []),
    ]
    shape = numpy_helper.from_array(np.array([batch or -1, 8]), "shape")
    first = batch or "unk__1"
    graph = helper.make_graph(
        [helper.make_node(kind, given, [made], name=f"{made}_node", **how) for kind, given, made, how in steps],
        "keras",
        [helper.make_tensor_value_info("input", TensorProto.UINT8 if uint8 else 1, [first, SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("answer", 1, [first, 4])],
        [*weights, shape, *([scale] if uint8 else [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def images(count: int = 40) -> Tensor:
    """Pictures of noise upon a colour, uint8 `[N, 3, H, W]`."""
    random = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 200, (count, 3, 1, 1), generator=random)
    return (colours + torch.randint(0, 56, (count, 3, SIZE, SIZE), generator=random)).to(torch.uint8)


def logits_of(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        answer = network(x)
    return answer if isinstance(answer, Tensor) else answer.logits


def run_graph(model: onnx.ModelProto, x: Tensor) -> np.ndarray:
    session = require().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": x.numpy()})[0]


def at(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def opened(factory: str) -> PixelClassifier:
    return build_classifier(ClassifierSource(factory, own_weights=False), channels=3, classes=4).eval()
