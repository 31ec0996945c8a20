"""What all attacks share: their interface, the check of their images, the choice image by image."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from purify_edge.errors import InputError
from purify_toolkit.attacks.norms import LINF
from purify_toolkit.networks.answers import Model

Size = tuple[str, float]
"""The name of a norm and the radius of its ball."""


class Attack(ABC):
    """An attack: its settings are the fields of a frozen dataclass, a call runs it, `str()` describes it.

    The description tells all that the result depends on besides model, images, labels and generator.
    """

    needs: ClassVar[str | None] = None  # the library that the attack calls, if it is not torch

    @abstractmethod
    def __call__(self, model: Model, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return attacked images `[N, C, H, W]` in [0, 1]; the model is never given an empty batch.

        Args:
            model: maps pixels `[N, C, H, W]` to logits `[N, K]`; the attack may need its gradient.
            images: `[N, C, H, W]` in [0, 1].
            labels: the true classes, `[N]`.
            generator: of all random choices, on the images' device.

        Raises:
            InputError: an image lies outside [0, 1].
        """

    @property
    def size(self) -> Size | None:
        """The ball around each image that the attack stays in: of its `epsilon` and `norm`; None where it has none."""
        epsilon, norm = getattr(self, "epsilon", None), getattr(self, "norm", LINF)
        return None if epsilon is None else (norm.name, float(epsilon))


class AttackWarning(UserWarning):
    """A library's doubt in the result of its own attack."""


def check_images(images: Tensor) -> None:
    """Raise InputError for images outside [0, 1]: they would look robust or broken for the wrong reason."""
    if images.ndim != 4:
        raise InputError(f"images must be [N, C, H, W], got {list(images.shape)}; add the missing axis")
    if images.numel() and not (float(images.min()) >= 0 and float(images.max()) <= 1):
        raise InputError(
            f"images must lie in [0, 1], got [{float(images.min()):g}, {float(images.max()):g}]; "
            "divide 8-bit images by 255 and leave the normalisation to the classifier"
        )


def choose(condition: Tensor, then: Tensor, otherwise: Tensor) -> Tensor:
    """Return, image by image `[N, C, H, W]`, `then` where the condition `[N]` holds, else `otherwise`."""
    return torch.where(condition.view(-1, 1, 1, 1), then, otherwise)


def numpy_model(function: Callable[[NDArray[Any]], NDArray[Any]]) -> Model:
    """Make a model out of a function of arrays, say an exported engine, for the attacks that need no gradient."""

    def model(images: Tensor) -> Tensor:
        logits = function(np.ascontiguousarray(images.detach().cpu().numpy()))
        return torch.tensor(logits, device=images.device)

    return model
