"""What differs from norm to norm in an attack: start, direction of ascent, projection, size."""

from typing import Protocol

import torch
from torch import Tensor


class Norm(Protocol):
    """One norm of perturbations. `epsilon` is the ball's radius: a number, or a tensor `[N, 1, 1, 1]`."""

    name: str

    def start(self, images: Tensor, epsilon: float | Tensor, generator: torch.Generator) -> Tensor:
        """Draw a perturbation `[N, C, H, W]` evenly from the ball; the generator is on the images' device."""

    def direction(self, gradient: Tensor, images: Tensor) -> Tensor:
        """Return the perturbation of size 1 along which a loss with this gradient at `images` rises fastest, else 0."""

    def project(self, candidate: Tensor, images: Tensor, epsilon: float | Tensor) -> Tensor:
        """Move the candidate into the ball around `images` and into [0, 1]."""

    def size(self, perturbation: Tensor) -> Tensor:
        """Return the norm of each perturbation, `[N, C, H, W] -> [N]`."""


class _Linf:
    """The largest change of a pixel."""

    name = "Linf"

    def start(self, images: Tensor, epsilon: float | Tensor, generator: torch.Generator) -> Tensor:
        return (torch.rand(images.shape, generator=generator, device=images.device) * 2 - 1) * epsilon

    def direction(self, gradient: Tensor, images: Tensor) -> Tensor:
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
        return self.direction(normal, images) * radius.pow(1 / images.shape[1:].numel()) * epsilon

    def direction(self, gradient: Tensor, images: Tensor) -> Tensor:
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


class _L1:
    """The sum of changes; a step moves the values of the largest gradient (Tramer and Boneh 2019, arXiv 1904.13000)."""

    name = "L1"
    share = 0.01  # of an image's values that a step moves

    def start(self, images: Tensor, epsilon: float | Tensor, generator: torch.Generator) -> Tensor:
        # Exponential sizes over their sum lie evenly on the ball's surface; one more of them makes it the ball.
        count = images.shape[1:].numel()
        sizes = -torch.rand(len(images), count + 1, generator=generator, device=images.device).clamp_min(1e-12).log()
        signs = torch.rand(images.shape, generator=generator, device=images.device).sub(0.5).sign()
        return signs * (sizes / sizes.sum(1, keepdim=True))[:, :count].view(images.shape) * epsilon

    def direction(self, gradient: Tensor, images: Tensor) -> Tensor:
        # Few values move, so none is wasted on one that lies at its end already.
        blocked = ((images <= 0) & (gradient < 0)) | ((images >= 1) & (gradient > 0))
        flat = gradient.masked_fill(blocked, 0).flatten(1)
        largest = flat.abs().topk(max(1, round(self.share * flat.shape[1])), dim=1).indices
        signs = torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign())
        return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1)).view(gradient.shape)

    def project(self, candidate: Tensor, images: Tensor, epsilon: float | Tensor) -> Tensor:
        # Cut to [0, 1] first, then moved onto the ball by what all values lose (Duchi et al. 2008): they come nearer to
        # the image, and so stay in [0, 1].
        perturbation = (candidate.clamp(0, 1) - images).flatten(1)
        radius = perturbation.new_zeros(len(images), 1) + (
            epsilon.flatten(1) if isinstance(epsilon, Tensor) else epsilon
        )
        sizes = perturbation.abs().sort(1, descending=True).values
        ranks = torch.arange(1, sizes.shape[1] + 1, device=sizes.device)
        excess = ((sizes.double().cumsum(1) - radius) / ranks).to(sizes.dtype)  # of many values
        last = ((sizes > excess) * ranks).amax(1, keepdim=True).clamp_min(1) - 1
        loss = excess.gather(1, last).clamp_min(0)
        shrunk = perturbation.sign() * (perturbation.abs() - loss).clamp_min(0)
        return images + shrunk.view(images.shape)

    def size(self, perturbation: Tensor) -> Tensor:
        return perturbation.abs().flatten(1).sum(1)


def _column(values: Tensor) -> Tensor:
    """Reshape `[N] -> [N, 1, 1, 1]`."""
    return values.view(-1, 1, 1, 1)


LINF: Norm = _Linf()
L2: Norm = _L2()
L1: Norm = _L1()
NORMS: dict[str, Norm] = {norm.name: norm for norm in (LINF, L2, L1)}
