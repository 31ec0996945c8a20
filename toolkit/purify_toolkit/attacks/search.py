"""Attacks without a gradient: a random search within an Linf ball, plain noise, and none at all."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from purify_toolkit.attacks.base import Attack, check_images, choose
from purify_toolkit.attacks.gradient import margin
from purify_toolkit.attacks.norms import LINF
from purify_toolkit.networks.answers import Model

AREA = 0.8  # of the image, of the first squares
HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # of the queries: then the area is halved


@dataclass(frozen=True, kw_only=True)
class RandomSearch(Attack):
    """Squares of +-epsilon at random places, kept where they raise the margin, ever smaller.

    After Andriushchenko et al. 2020 (Square, arXiv 1912.00049): the search starts at vertical stripes of
    +-epsilon, and the squares' area shrinks by their schedule. Each image has squares of its own, and costs
    no more queries once it is misclassified. The model is only evaluated.
    """

    epsilon: float  # the radius of the Linf ball
    queries: int = 1000  # how many evaluations of the model an image may cost

    def __str__(self) -> str:
        return f"random search, Linf {self.epsilon:g}, {self.queries} queries"

    @torch.no_grad()
    def __call__(self, model: Model, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Attack.__call__`."""
        check_images(images)
        if not len(images):
            return images.clone()
        stripes = self.epsilon * _signs([*images.shape[:2], 1, images.shape[3]], images, generator)
        best = LINF.project(images + stripes, images, self.epsilon)
        best_margin = margin(model(best), labels)
        for query in range(1, self.queries):
            active = (best_margin <= 0).nonzero().squeeze(1)
            if not len(active):
                break
            old, old_margin = best[active], best_margin[active]
            new = self._proposal(images[active], old, query, generator)
            new_margin = margin(model(new), labels[active])
            best[active] = choose(new_margin > old_margin, new, old)
            best_margin[active] = torch.maximum(new_margin, old_margin)
        return best

    def _proposal(self, clean: Tensor, old: Tensor, query: int, generator: torch.Generator) -> Tensor:
        """Return the best images so far, each with a square of another colour."""
        area = AREA / 2 ** sum(query > share * self.queries for share in HALVINGS)
        colours = self.epsilon * _signs([*clean.shape[:2], 1, 1], clean, generator)
        covered = squares(clean, area, generator)
        return torch.where(covered, LINF.project(clean + colours, clean, self.epsilon), old)


@dataclass(frozen=True, kw_only=True)
class UniformNoise(Attack):
    """Noise drawn evenly from the Linf ball of radius epsilon, cut to [0, 1]; the model is not asked."""

    epsilon: float

    def __str__(self) -> str:
        return f"uniform noise, Linf {self.epsilon:g}"

    def __call__(self, model: Model, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Attack.__call__`."""
        check_images(images)
        return LINF.project(images + LINF.start(images, self.epsilon, generator), images, self.epsilon)


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Attack):
    """Normal noise of standard deviation `std` in pixel units, cut to [0, 1]; the model is not asked."""

    std: float

    def __str__(self) -> str:
        return f"Gaussian noise, standard deviation {self.std:g}"

    def __call__(self, model: Model, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Attack.__call__`."""
        check_images(images)
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        return (images + self.std * noise).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class NoAttack(Attack):
    """Images as they are."""

    def __str__(self) -> str:
        return "none"

    def __call__(self, model: Model, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Attack.__call__`."""
        return images


def _signs(shape: list[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Return random -1 and +1."""
    return torch.randint(0, 2, shape, generator=generator, device=like.device).to(like.dtype) * 2 - 1


def squares(images: Tensor, area: float, generator: torch.Generator) -> Tensor:
    """Draw a square at a random place for each image, `area` of it, one pixel at least: booleans `[N, 1, H, W]`."""
    height, width = images.shape[2:]
    side = min(max(round(math.sqrt(area * height * width)), 1), height, width)

    def spans(length: int) -> Tensor:
        begin = torch.randint(0, length - side + 1, (len(images), 1), generator=generator, device=images.device)
        index = torch.arange(length, device=images.device)
        return (index >= begin) & (index < begin + side)

    rows, columns = spans(height), spans(width)
    found: Tensor = rows[:, :, None] & columns[:, None, :]
    return found.unsqueeze(1)


@torch.no_grad()
def worst_of(model: Model, images: Tensor, labels: Tensor, changed: Callable[[], Tensor], tries: int) -> Tensor:
    """Return of each image and so many changes of all images, `[N, C, H, W]` each, the one of the largest margin."""
    check_images(images)
    if not len(images):
        return images.clone()
    best, best_margin = images.clone(), margin(model(images), labels)
    for _ in range(tries):
        found = changed()
        found_margin = margin(model(found), labels)
        best = choose(found_margin > best_margin, found, best)
        best_margin = torch.maximum(found_margin, best_margin)
    return best
