"""Attacks without a gradient: a random search within an Linf ball, and plain noise."""

import torch
from torch import Tensor

from purify_toolkit.attacks.base import check_images, choose
from purify_toolkit.attacks.gradient import margin
from purify_toolkit.attacks.norms import LINF
from purify_toolkit.networks.answers import Model

AREA = 0.8  # of the image, of the first squares
HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # of the queries: then the area is halved


@torch.no_grad()
def random_search(
    model: Model, images: Tensor, labels: Tensor, *, epsilon: float, queries: int, generator: torch.Generator
) -> Tensor:
    """Squares of +-epsilon at random places, kept where they raise the margin, ever smaller.

    After Andriushchenko et al. 2020 (Square, arXiv 1912.00049): the search starts at vertical stripes of
    +-epsilon, and the squares' area shrinks by their schedule. Each image has squares of its own, and costs
    no more queries once it is misclassified.

    Args:
        model: pixels `[N, C, H, W]` -> logits `[N, K]`; only evaluated.
        images: `[N, C, H, W]` in [0, 1].
        labels: `[N]`, the true classes.
        epsilon: radius of the Linf ball.
        queries: evaluations of the model an image at most.
        generator: on the images' device.

    Returns:
        Images `[N, C, H, W]` in [0, 1], within epsilon of `images`.

    Raises:
        InputError: an image lies outside [0, 1].
    """
    check_images(images)
    height, width = images.shape[2:]
    stripes = epsilon * _signs([*images.shape[:2], 1, width], images, generator)
    best = LINF.project(images + stripes, images, epsilon)
    best_margin = margin(model(best), labels)
    for query in range(1, queries):
        active = (best_margin <= 0).nonzero().squeeze(1)
        if not len(active):
            break
        clean, old, old_margin = images[active], best[active], best_margin[active]
        area = AREA / 2 ** sum(query > share * queries for share in HALVINGS)
        side = min(max(round((area * height * width) ** 0.5), 1), height, width)
        colours = epsilon * _signs([*clean.shape[:2], 1, 1], images, generator)
        new = torch.where(_squares(clean, side, generator), LINF.project(clean + colours, clean, epsilon), old)
        new_margin = margin(model(new), labels[active])
        best[active] = choose(new_margin > old_margin, new, old)
        best_margin[active] = torch.maximum(new_margin, old_margin)
    return best


def uniform_noise(images: Tensor, *, epsilon: float, generator: torch.Generator) -> Tensor:
    """Noise drawn evenly from the Linf ball of radius epsilon, cut to [0, 1]."""
    check_images(images)
    return LINF.project(images + LINF.start(images, epsilon, generator), images, epsilon)


def gaussian_noise(images: Tensor, *, std: float, generator: torch.Generator) -> Tensor:
    """Normal noise of standard deviation `std` in pixel units, cut to [0, 1]."""
    check_images(images)
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return (images + std * noise).clamp(0, 1)


def _signs(shape: list[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Random -1 and +1."""
    return torch.randint(0, 2, shape, generator=generator, device=like.device).to(like.dtype) * 2 - 1


def _squares(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A square at a random place for each image: booleans `[N, 1, H, W]`."""

    def spans(length: int) -> Tensor:
        begin = torch.randint(0, length - side + 1, (len(images), 1), generator=generator, device=images.device)
        index = torch.arange(length, device=images.device)
        return (index >= begin) & (index < begin + side)

    rows, columns = spans(images.shape[2]), spans(images.shape[3])
    return (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)
