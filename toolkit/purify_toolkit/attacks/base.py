"""What all attacks share: the model they see, the check of their images, the choice per example."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from purify_edge.errors import InputError
from purify_toolkit.networks.answers import Model


def check_images(images: Tensor) -> None:
    """Refuse images outside [0, 1]: attacked, they would look robust or broken for the wrong reason.

    Raises:
        InputError: a pixel lies outside [0, 1] or is not a number.
    """
    if images.ndim != 4:
        raise InputError(f"images must be [N, C, H, W], got {list(images.shape)}; add the missing axis")
    if images.numel() and not (float(images.min()) >= 0 and float(images.max()) <= 1):
        raise InputError(
            f"images must lie in [0, 1], got [{float(images.min()):g}, {float(images.max()):g}]; "
            "divide 8-bit images by 255 and leave the normalisation to the classifier"
        )


def choose(condition: Tensor, then: Tensor, otherwise: Tensor) -> Tensor:
    """Image by image `[N, C, H, W]`, `then` where the condition `[N]` holds."""
    return torch.where(condition.view(-1, 1, 1, 1), then, otherwise)


def numpy_model(function: Callable[[NDArray[Any]], NDArray[Any]]) -> Model:
    """A model out of a function of arrays, say an exported engine, for the attacks that need no gradient.

    Args:
        function: float32 pixels `[N, C, H, W]` -> logits `[N, K]`.
    """

    def model(images: Tensor) -> Tensor:
        logits = function(np.ascontiguousarray(images.detach().cpu().numpy()))
        return torch.tensor(logits, device=images.device)

    return model
