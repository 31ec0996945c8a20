"""The attack of Carlini and Wagner: the smallest L2 perturbation that misleads, not the strongest of a given size."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from purify_toolkit.attacks.base import Attack, check_images, choose
from purify_toolkit.attacks.gradient import margin
from purify_toolkit.attacks.norms import L2, Norm
from purify_toolkit.networks.answers import Model

SHRINK = 0.999999  # keeps black and white pixels at a finite place of tanh's axis


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(Attack):
    """Minimise `|x' - x|^2 + c max(0, z_y - max_{j != y} z_j + confidence)` (arXiv 1608.04644, section VI).

    x' = (tanh(w) + 1) / 2 keeps the pixels in range; Adam moves w. Each image has a c of its own: ten times
    the last one until an adversarial example is found, then halfway between the largest c that failed
    and the smallest that did not. A c that never grows large enough makes any model look robust, so let
    `initial_c * 10 ** (searches - 1)` be 100 at least.

    The result is the nearest adversarial image found, and the image itself where none was found within epsilon or
    where it is misclassified as it is.
    """

    norm: ClassVar[Norm] = L2
    epsilon: float = float("inf")  # the distance beyond which an example does not count
    steps: int = 100  # how many steps Adam takes for each c
    searches: int = 6  # how many c are tried
    rate: float = 0.05  # the learning rate of Adam, in w's unit
    initial_c: float = 1.0  # the first c
    confidence: float = 0.0  # how far, in logits, another class must lead

    def __str__(self) -> str:
        return (
            f"Carlini-Wagner, L2 {self.epsilon:g}, {self.steps} steps, "
            f"{self.searches} values of c from {self.initial_c:g}, rate {self.rate:g}"
        )

    def __call__(self, model: Model, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Attack.__call__`; nothing is drawn from the generator."""
        check_images(images)
        if not len(images):
            return images.clone()
        with torch.no_grad():
            wrong = margin(model(images), labels) > self.confidence
        best, infinite = images.detach().clone(), torch.full_like(wrong, torch.inf, dtype=images.dtype)
        best_size = infinite.masked_fill(wrong, 0)
        c, low, high = torch.full_like(infinite, self.initial_c), torch.zeros_like(infinite), infinite
        for _ in range(self.searches):
            found, size = self._descend(model, images, labels, c)
            best, best_size = choose(size < best_size, found, best), torch.minimum(size, best_size)
            success = size.isfinite()
            low, high = torch.where(success, low, c), torch.where(success, c, high)
            c = torch.where(high.isinf(), c * 10, (low + high) / 2)
        return choose(L2.size(best - images) <= self.epsilon, best, images)

    def _descend(self, model: Model, images: Tensor, labels: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest adversarial images on Adam's way for these c `[N]`, and their distances `[N]`."""
        w = torch.atanh((images.detach() * 2 - 1) * SHRINK).requires_grad_(True)
        adam = torch.optim.Adam([w], lr=self.rate)
        best, best_size = images, torch.full_like(c, torch.inf)
        for _ in range(self.steps):
            with torch.enable_grad():
                adversarial = (torch.tanh(w) + 1) / 2
                lead = margin(model(adversarial), labels)
                squared = (adversarial - images).square().flatten(1).sum(1)
                loss = squared + c * (self.confidence - lead).clamp(min=0)
                (w.grad,) = torch.autograd.grad(loss.sum(), w)
            size = torch.where(lead > self.confidence, squared.sqrt(), torch.inf).detach()
            best, best_size = choose(size < best_size, adversarial.detach(), best), torch.minimum(size, best_size)
            adam.step()
        return best, best_size
