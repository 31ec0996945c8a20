import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from purify_edge.errors import BuildError
from purify_toolkit.networks.onnx_program import check_exportable

SHAPE = (3, 8, 8)


class Layer(nn.Module):
    """A layer that does what a function says."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def network(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers, nn.Flatten(), nn.LazyLinear(5)).eval()


def autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (x.flatten(2) @ x.new_ones(64, 64)).float()


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "no operator": (network(nn.AdaptiveMaxPool2d(3)), r"in the layer 1 \(AdaptiveMaxPool2d\): No ONNX .*has no such"),
    "an if": (
        network(Layer(lambda x: x * 2 if x.mean() > 0 else x)),
        r"in the layer 1 \(Layer\), .*program\.py:\d+: .*where",
    ),
    "len": (
        network(Layer(lambda x: x + torch.zeros(len(x), 1, 1, 1))),
        "Constraints violated.*its code fixes the batch",
    ),
    "a loop": (
        network(Layer(lambda x: torch.stack([x_CHW.relu() for x_CHW in x]))),
        "its code fixes the batch; use x.sha",
    ),
    "autocast": (
        network(Layer(autocast)),
        "computes in bfloat16 in the layer 1: .*Layer, not in float32; leave autocast",
    ),
    "float64": (network(Layer(lambda x: F.softplus(x.double()).float())), "computes in double in the layer 1: .*Layer"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_exported_is_found_before_the_training(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    model, message = REFUSED[kind]
    model(torch.zeros(2, *SHAPE))  # settles the last layer's size
    with pytest.raises(BuildError, match=message) as caught:
        check_exportable(model, SHAPE)
    assert len(str(caught.value)) < 600
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused() -> None:
    with pytest.raises(BuildError, match="TorchScript, which is in the Sequential, cannot be exported to ONNX; build"):
        check_exportable(nn.Sequential(torch.jit.script(nn.ReLU())), SHAPE)


def test_what_can_be_exported_passes() -> None:
    model = network(nn.BatchNorm2d(4), nn.AdaptiveMaxPool2d(4), Layer(lambda x: x.double()), Layer(lambda x: x.float()))
    model(torch.zeros(2, *SHAPE))
    check_exportable(model, SHAPE)


WITHOUT = """
import logging, sys
sys.modules["onnxscript"] = None
logging.basicConfig(level=logging.INFO)
from test_onnx_program import REFUSED, SHAPE, network, torch
from purify_toolkit.networks.onnx_program import check_exportable
for model in (network(), REFUSED["an if"][0]):
    model(torch.zeros(2, *SHAPE))
    check_exportable(model, SHAPE)
"""


def test_without_the_exporters_packages_pytorchs_half_is_tried() -> None:
    code = [sys.executable, "-c", WITHOUT]
    done = subprocess.run(code, cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=300)
    assert done.stderr.count("only PyTorch's half was tried: there is no onnxscript") == 2
    assert "BuildError: torch" in done.stderr.splitlines()[-1]
    assert "in the layer 1 (Layer), " in done.stderr.splitlines()[-1]
