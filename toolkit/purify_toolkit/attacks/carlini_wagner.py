"""The attack of Carlini and Wagner: the smallest L2 perturbation that misleads, not the strongest of a given size."""

import torch
from torch import Tensor

from purify_toolkit.attacks.base import check_images, choose
from purify_toolkit.attacks.gradient import margin
from purify_toolkit.networks.answers import Model

SHRINK = 0.999999  # keeps black and white pixels at a finite place of tanh's axis


def carlini_wagner_l2(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    binary_steps: int,
    learning_rate: float,
    initial_c: float,
    confidence: float = 0.0,
) -> Tensor:
    """Minimise `|x' - x|^2 + c max(0, z_y - max_{j != y} z_j + confidence)` (arXiv 1608.04644, section VI).

    x' = (tanh(w) + 1) / 2 keeps the pixels in range; Adam moves w. Each image has a c of its own: ten times
    the last one until an adversarial example is found, then halfway between the largest c that failed
    and the smallest that did not. A c that never grows large enough makes any model look robust, so let
    `initial_c * 10 ** (binary_steps - 1)` be 100 at least.

    Args:
        model: pixels `[N, C, H, W]` -> logits `[N, K]`, differentiable.
        images: `[N, C, H, W]` in [0, 1].
        labels: `[N]`, the true classes.
        steps: of Adam, for each c.
        binary_steps: how many c are tried.
        learning_rate: of Adam, in w's unit.
        initial_c: the first c.
        confidence: how far, in logits, another class must lead.

    Returns:
        The nearest adversarial image found, `[N, C, H, W]` in [0, 1], however far; the image itself
        where none was found or where it is misclassified as it is.

    Raises:
        InputError: an image lies outside [0, 1].
    """
    check_images(images)
    with torch.no_grad():
        wrong = margin(model(images), labels) > confidence
    best, infinite = images.detach().clone(), torch.full_like(wrong, torch.inf, dtype=images.dtype)
    best_size = infinite.masked_fill(wrong, 0)
    c, low, high = torch.full_like(infinite, initial_c), torch.zeros_like(infinite), infinite
    for _ in range(binary_steps):
        found, size = _descend(
            model, images, labels, c=c, steps=steps, learning_rate=learning_rate, confidence=confidence
        )
        best, best_size = choose(size < best_size, found, best), torch.minimum(size, best_size)
        success = size.isfinite()
        low, high = torch.where(success, low, c), torch.where(success, c, high)
        c = torch.where(high.isinf(), c * 10, (low + high) / 2)
    return best


def _descend(
    model: Model, images: Tensor, labels: Tensor, *, c: Tensor, steps: int, learning_rate: float, confidence: float
) -> tuple[Tensor, Tensor]:
    """The nearest adversarial images on Adam's way for these c `[N]`, and their distances `[N]`, else infinite."""
    w = torch.atanh((images.detach() * 2 - 1) * SHRINK).requires_grad_(True)
    adam = torch.optim.Adam([w], lr=learning_rate)
    best, best_size = images, torch.full_like(c, torch.inf)
    for _ in range(steps):
        with torch.enable_grad():
            adversarial = (torch.tanh(w) + 1) / 2
            lead = margin(model(adversarial), labels)
            squared = (adversarial - images).square().flatten(1).sum(1)
            loss = squared + c * (confidence - lead).clamp(min=0)
            (w.grad,) = torch.autograd.grad(loss.sum(), w)
        size = torch.where(lead > confidence, squared.sqrt(), torch.inf).detach()
        best, best_size = choose(size < best_size, adversarial.detach(), best), torch.minimum(size, best_size)
        adam.step()
    return best, best_size
