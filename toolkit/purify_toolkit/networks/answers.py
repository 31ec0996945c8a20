"""Answers of a classifier."""

from collections.abc import Callable

import torch
from torch import Tensor

Model = Callable[[Tensor], Tensor]
"""Pixels `[N, C, H, W]` in [0, 1] -> logits `[N, K]`."""


@torch.no_grad()
def count_correct(model: Model, images: Tensor, labels: Tensor) -> int:
    """Return how many images `[N, C, H, W]` the model gives their label."""
    return int((model(images).argmax(1) == labels).sum())
