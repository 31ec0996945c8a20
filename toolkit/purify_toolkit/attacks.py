"""Attacks: projected gradient descent within an Linf ball around images in [0, 1]."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from purify_toolkit.errors import InputError

BATCH_PIXELS = 500 * 28 * 28


def pgd(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float | Tensor,
    steps: int,
    relative_step: float,
    generator: torch.Generator,
) -> Tensor:
    """Untargeted Linf PGD with a random start, maximising the cross-entropy (Madry et al. 2018, arXiv 1706.06083).

    Args:
        model: pixels `[N, C, H, W]` -> logits `[N, K]`, differentiable.
        images: `[N, C, H, W]` in [0, 1].
        labels: `[N]`, the true classes.
        epsilon: radius of the ball in pixel units, a number or a tensor `[N, 1, 1, 1]`.
        steps: gradient steps.
        relative_step: length of a step as a fraction of epsilon.
        generator: of the random start, on the images' device.

    Returns:
        Adversarial images `[N, C, H, W]` in [0, 1], within epsilon of `images`.

    Raises:
        InputError: an image lies outside [0, 1].
    """
    if images.numel() and (float(images.min()) < 0 or float(images.max()) > 1):
        raise InputError(f"images must lie in [0, 1], got [{float(images.min()):g}, {float(images.max()):g}]")
    low, high = (images - epsilon).clamp(0, 1), (images + epsilon).clamp(0, 1)
    start = torch.rand(images.shape, generator=generator, device=images.device) * 2 - 1
    adversarial = torch.clamp(images + start * epsilon, low, high)
    for _ in range(steps):
        adversarial.requires_grad_(True)
        loss = F.cross_entropy(model(adversarial), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, adversarial)
        step = relative_step * epsilon * gradient.sign()
        adversarial = torch.clamp(adversarial.detach() + step, low, high)
    return adversarial


def batch_size(images: Tensor) -> int:
    """How many images `[N, C, H, W]` to attack at once: fewer where they are large, for memory's sake."""
    return max(1, BATCH_PIXELS // (images.shape[2] * images.shape[3]))


def to_8bit(images: Tensor, *, clean: Tensor | None = None, epsilon: float | Tensor = 1.0) -> Tensor:
    """Round images in [0, 1] to uint8, as a file or a camera would carry them.

    With `clean` (uint8) and `epsilon`, the rounded image still lies within epsilon of the clean one:
    rounding alone would leave the ball by up to half a grey level.
    """
    rounded = (images * 255).round()
    if clean is not None:
        # A hair is added so that 8/255 * 255 counts as the 8 levels it stands for.
        levels = torch.floor(torch.as_tensor(epsilon, device=images.device) * 255 + 1e-4)
        rounded = torch.clamp(rounded, clean - levels, clean + levels)
    return rounded.clamp(0, 255).to(torch.uint8)


def to_float(images_u8: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 `[N, C, H, W]` -> float32 in [0, 1], channels last in memory, on `device`."""
    return images_u8.to(device).float().div_(255).contiguous(memory_format=torch.channels_last)
