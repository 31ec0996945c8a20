"""What differs from norm to norm in an attack: start, direction of ascent, projection, size."""

from typing import Protocol

import torch
from torch import Tensor


class Norm(Protocol):
    """One norm of perturbations. `epsilon` is the ball's radius: a number, or a tensor `[N, 1, 1, 1]`."""

    name: str

    def start(self, images: Tensor, epsilon: float | Tensor, generator: torch.Generator) -> Tensor:
        """Draw a perturbation `[N, C, H, W]` evenly from the ball; the generator is on the images' device."""

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the perturbation of size 1 along which a loss with this gradient rises fastest, else 0."""

    def project(self, candidate: Tensor, images: Tensor, epsilon: float | Tensor) -> Tensor:
        """Move the candidate into the ball around `images` and into [0, 1]."""

    def size(self, perturbation: Tensor) -> Tensor:
        """Return the norm of each perturbation, `[N, C, H, W] -> [N]`."""


class _Linf:
    """The largest change of a pixel."""

    name = "Linf"

    def start(self, images: Tensor, epsilon: float | Tensor, generator: torch.Generator) -> Tensor:
        return (torch.rand(images.shape, generator=generator, device=images.device) * 2 - 1) * epsilon

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, candidate: Tensor, images: Tensor, epsilon: float | Tensor) -> Tensor:
        return torch.clamp(candidate, (images - epsilon).clamp(0, 1), (images + epsilon).clamp(0, 1))

    def size(self, perturbation: Tensor) -> Tensor:
        return perturbation.abs().flatten(1).amax(1)


class _L2:
    """The root of the sum of squared changes."""

    name = "L2"

    def start(self, images: Tensor, epsilon: float | Tensor, generator: torch.Generator) -> Tensor:
        normal = torch.randn(images.shape, generator=generator, device=images.device)
        radius = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
        # The share of the ball's volume within radius r is r^d.
        return self.direction(normal) * radius.pow(1 / images.shape[1:].numel()) * epsilon

    def direction(self, gradient: Tensor) -> Tensor:
        # Divided by its largest value first: the squares of small gradients would underflow.
        scaled = gradient / _column(gradient.abs().flatten(1).amax(1)).clamp_min(torch.finfo(gradient.dtype).tiny)
        return scaled / _column(self.size(scaled)).clamp_min(1e-12)

    def project(self, candidate: Tensor, images: Tensor, epsilon: float | Tensor) -> Tensor:
        perturbation = candidate - images
        # Cutting at 0 and 1 only shortens a perturbation of an image in [0, 1], so the result stays in the ball.
        shrink = (epsilon / _column(self.size(perturbation)).clamp_min(1e-12)).clamp(max=1)
        return (images + perturbation * shrink).clamp(0, 1)

    def size(self, perturbation: Tensor) -> Tensor:
        size: Tensor = torch.linalg.vector_norm(perturbation.flatten(1), dim=1)
        return size


def _column(values: Tensor) -> Tensor:
    """Reshape `[N] -> [N, 1, 1, 1]`."""
    return values.view(-1, 1, 1, 1)


LINF: Norm = _Linf()
L2: Norm = _L2()
NORMS: dict[str, Norm] = {norm.name: norm for norm in (LINF, L2)}
