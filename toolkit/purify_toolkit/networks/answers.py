"""Answers of a classifier."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from purify_toolkit.data.splits import Split, batches

Model = Callable[[Tensor], Tensor]
"""Pixels `[N, C, H, W]` in [0, 1] -> logits `[N, K]`."""


@torch.no_grad()
def right(model: Model, images: Tensor, labels: Tensor) -> NDArray[np.bool_]:
    """Return which images `[N, C, H, W]` the model gives their label, `[N]`; none whose logits are not finite."""
    found: NDArray[np.bool_] = (_answers(model(images)) == labels).cpu().numpy()
    return found


def count_correct(model: Model, images: Tensor, labels: Tensor) -> int:
    """Return how many images `[N, C, H, W]` the model gives their label."""
    return int(right(model, images, labels).sum())


@torch.no_grad()
def answers_of(model: Model, split: Split, device: torch.device) -> NDArray[np.int64]:
    """Return the class, `[N]`, that the model gives each image of a split; -1 where its logits are not finite."""
    return np.concatenate([_answers(model(images)).cpu().numpy() for images, _ in batches(split, device)])


def by_chance(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Return the share of labels that answers, `[N]` each, would hit if they came in another order.

    So one answer for all has the share of that class, and not one in K (Cohen 1960, the expected agreement of kappa).
    """
    return float(sum((answers == label).mean() * (labels == label).mean() for label in np.unique(labels)))


def _answers(logits: Tensor) -> Tensor:
    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1)
