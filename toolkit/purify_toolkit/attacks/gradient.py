"""Attacks: projected gradient descent within an Linf ball around images in [0, 1]."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from purify_toolkit.errors import InputError


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
