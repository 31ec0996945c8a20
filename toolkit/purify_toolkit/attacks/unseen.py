"""Attacks that a training does not have: one perturbation for all images, a patch, a change of colour and light."""

from dataclasses import dataclass

import torch
from torch import Tensor

from purify_toolkit.attacks.base import Attack, check_images
from purify_toolkit.attacks.gradient import cross_entropy, margin
from purify_toolkit.attacks.norms import LINF
from purify_toolkit.attacks.search import squares, worst_of
from purify_toolkit.networks.answers import Model


@dataclass(frozen=True, kw_only=True)
class Universal(Attack):
    """One perturbation for all images of a call, found on these images themselves.

    Signed gradient ascent of their mean loss, after Shafahi et al. 2020 (arXiv 1811.11304). Moosavi-Dezfooli et al.
    2017 (arXiv 1610.08401), who found that such perturbations exist, showed them to further images too.
    """

    epsilon: float  # the radius of the Linf ball
    steps: int = 50  # how many gradient steps to take, each a tenth of epsilon

    def __str__(self) -> str:
        return f"universal perturbation, Linf {self.epsilon:g}, {self.steps} steps"

    def __call__(self, model: Model, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Attack.__call__`."""
        check_images(images)
        if not len(images):
            return images.clone()
        shared = LINF.start(images[:1], self.epsilon, generator)
        for _ in range(self.steps):
            with torch.enable_grad():
                leaf = shared.detach().requires_grad_(True)
                loss = cross_entropy(model((images + leaf).clamp(0, 1)), labels).sum()
            gradient = torch.autograd.grad(loss, leaf)[0]
            shared = (shared + self.epsilon / 10 * gradient.sign()).clamp(-self.epsilon, self.epsilon)
        return LINF.project(images + shared, images, self.epsilon)


@dataclass(frozen=True, kw_only=True)
class Patch(Attack):
    """A square of any pixels at a random place of each image, made for it by signed gradient ascent of the margin.

    The threat of Brown et al. 2017 (arXiv 1712.09665) at its strongest: a patch that is printed must do for many
    images and places, this one for one (Karmon et al. 2018, arXiv 1801.02608).
    """

    area: float = 0.05  # the share of the image that it covers
    steps: int = 100  # how many gradient steps to take, each a tenth of the range of pixels

    def __str__(self) -> str:
        return f"patch of {self.area:.0%} of the image at a random place, {self.steps} steps"

    def __call__(self, model: Model, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Attack.__call__`; an image is left alone once it is misclassified."""
        check_images(images)
        if not len(images):
            return images.clone()
        inside = squares(images, self.area, generator)
        start = torch.rand(images.shape, generator=generator, device=images.device)
        found, left = torch.where(inside, start, images), torch.arange(len(images), device=images.device)
        for _ in range(self.steps):
            with torch.enable_grad():
                x = found[left].requires_grad_(True)
                value = margin(model(x), labels[left])
                gradient = torch.autograd.grad(value.sum(), x)[0]
            right = value.detach() < 0
            left, gradient = left[right], gradient[right]
            if not len(left):
                break
            found[left] = torch.where(inside[left], (found[left] + 0.1 * gradient.sign()).clamp(0, 1), found[left])
        return found


@dataclass(frozen=True, kw_only=True)
class Colours(Attack):
    """The worst of some random changes of colour and light of each image, and of the image itself.

    Each channel gets a gain and an offset of its own, as by another lamp or white balance; in the manner of Hosseini
    and Poovendran 2018 (arXiv 1804.00499), who turned hue and saturation. The model is only evaluated.
    """

    gain: float = 0.3  # by how much a channel is multiplied, 1 more or less this
    offset: float = 0.1  # what is added to it at most, either way
    tries: int = 10  # how many changes of each image to try

    def __str__(self) -> str:
        return f"channels times 1 +- {self.gain:g}, +- {self.offset:g}, worst of {self.tries} random tries"

    def __call__(self, model: Model, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Attack.__call__`."""

        def changed() -> Tensor:
            draw = torch.rand(2, *images.shape[:2], 1, 1, generator=generator, device=images.device) * 2 - 1
            return (images * (1 + self.gain * draw[0]) + self.offset * draw[1]).clamp(0, 1)

        return worst_of(model, images, labels, changed, self.tries)
