"""Networks of other kinds than those that ship: a transformer, masked attention, a mix of operators, others of ours."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.graphs import built_by_rtx, export
from purify_edge.engines.onnxruntime import OnnxRuntimeEngine
from purify_edge.engines.tensorrt.library import installed_builders
from purify_export.convert.half_from_fp32 import FORMATS, half_from_fp32, rounding_from_half
from purify_export.convert.int8_from_fp32 import int8_from_fp32, quantised_layers
from purify_export.convert.onnx_from_torch import check_graph
from purify_export.convert.range_scan import range_scan
from purify_export.gate import first_divergence
from purify_toolkit.networks.architectures import CLASSIFIERS, Classifier, Purifier

TOLERANCE = {"fp16": 0.01, "bf16": 0.05, "int8": 0.1}
DIVERGENCE = {"fp16": 0.1, "bf16": 0.3}
"""More than the gate allows: images of noise are all alike to a network without training."""


class Transformer(nn.Module):
    """Patches, a class token, positions, one layer of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 17, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(y.shape[0], -1, -1), y], 1) + self.positions
        logits: Tensor = self.head(self.norm(self.layer(y))[:, 0])
        return logits


class Masked(nn.Module):
    """Attention under a mask of minus infinity, which both 16-bit types hold."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.qkv, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 48), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.patches(x).flatten(2).transpose(1, 2)).chunk(3, -1)
        mask = torch.triu(torch.full((16, 16), float("-inf")), 1)
        logits: Tensor = self.head((torch.softmax(q @ k.transpose(1, 2) / 4 + mask, -1) @ v).mean(1))
        return logits


class Mix(nn.Module):
    """Operators of the usual mobile networks and some others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.group, self.instance, self.prelu = nn.GroupNorm(2, 8), nn.InstanceNorm2d(8), nn.PReLU()
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        squeeze = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.SiLU(), nn.Conv2d(4, 8, 1), nn.Hardsigmoid()]
        self.excite, self.head = nn.Sequential(*squeeze), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(self.instance(F.hardswish(self.group(self.first(x)))))
        y = F.interpolate(self.up(F.max_pool2d(y, 2)), scale_factor=2, mode="bilinear", align_corners=False)
        y = F.mish(self.depthwise(F.pad(y, (1, 1, 1, 1), mode="reflect")))
        y = F.avg_pool2d(y * self.excite(y), 3, 2, 1, ceil_mode=True)
        y = F.pixel_shuffle(y, 2).repeat(1, 4, 1, 1)
        return F.log_softmax(self.head((F.elu(y) + F.leaky_relu(y)).amax((2, 3))), 1)


def classifier(architecture: str) -> nn.Module:
    return Classifier(3, 5, mean=[0.4] * 3, std=[0.3] * 3, width=4, blocks=1, architecture=architecture)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "transformer": Transformer,
    "masked": Masked,
    "mix": Mix,
    "padding": lambda: Purifier(3, width=2, depth=5, blocks=1),  # to 32 x 32 inside
    **{name: partial(classifier, name) for name in CLASSIFIERS},
}


@pytest.fixture(scope="module", params=NETWORKS)
def module(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[request.param]().eval()


@pytest.fixture(scope="module")
def model(module: nn.Module) -> onnx.ModelProto:
    return export(module, (3, 16, 16))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return (np.random.default_rng(0).integers(0, 256, (8, 3, 16, 16)) / 255).astype(np.float32)


def answers(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    with OnnxRuntimeEngine(model.SerializeToString(), source="the graph") as engine:
        return engine.run(images)


@pytest.mark.parametrize("to", list(FORMATS))
def test_in_16_bits_it_gives_pytorchs_numbers_and_is_built(
    module: nn.Module, model: onnx.ModelProto, images: np.ndarray, to: str
) -> None:
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    keep = [finding.layer.node for finding in range_scan(model, {"clean": images}, to)]
    half = half_from_fp32(model, to, keep=keep)
    check_graph(half)
    np.testing.assert_allclose(answers(rounding_from_half(half), images), expected, rtol=0, atol=TOLERANCE[to])
    assert first_divergence(half, model, images, tolerance=DIVERGENCE[to]) is None
    if "tensorrt_rtx" in installed_builders():
        assert built_by_rtx(half, to, "8.6").content
        assert built_by_rtx(half_from_fp32(model, to), to, "8.6").content  # nothing kept


def test_in_int8_it_gives_pytorchs_numbers_and_is_built(
    module: nn.Module, model: onnx.ModelProto, images: np.ndarray
) -> None:
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    int8 = int8_from_fp32(model, images)
    check_graph(int8)
    assert len(quantised_layers(int8)) > 2
    np.testing.assert_allclose(answers(int8, images), expected, rtol=0, atol=TOLERANCE["int8"])
    if "tensorrt_rtx" in installed_builders():
        assert built_by_rtx(int8, "int8", "8.6").content


LOAD = """
import sys
from purify_edge.engines.onnxruntime import OnnxRuntimeEngine
OnnxRuntimeEngine(open(sys.argv[1], "rb").read(), source="the graph")
"""


def test_onnx_runtime_loads_it_in_float16(model: onnx.ModelProto, tmp_path: Path) -> None:
    """In a process of its own: left as it is, ONNX Runtime 1.32 ends the process on the transformer."""
    path = tmp_path / "half.onnx"
    path.write_bytes(half_from_fp32(model, "fp16").SerializeToString())
    done = subprocess.run([sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
