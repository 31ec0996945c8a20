"""Spatial attacks: images rotated and shifted a little."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from purify_toolkit.attacks.base import Attack
from purify_toolkit.attacks.search import worst_of
from purify_toolkit.networks.answers import Model


@dataclass(frozen=True, kw_only=True)
class RotateTranslate(Attack):
    """The worst of some random rotations and shifts of each image, and of the image itself.

    Engstrom et al. 2019 (arXiv 1712.02779) found the worst of ten random ones nearly as strong as a full grid,
    and stronger than following the gradient. The model is only evaluated; the image is black where nothing came from.
    """

    degrees: float = 30.0  # the largest rotation, either way
    shift: float = 0.1  # the largest shift along either axis, as a fraction of the image's side
    tries: int = 10  # how many transformations of each image to try

    def __str__(self) -> str:
        return (
            f"rotation to {self.degrees:g} degrees and shift to {self.shift:g} of the side, "
            f"worst of {self.tries} random tries"
        )

    def __call__(self, model: Model, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Attack.__call__`."""

        def changed() -> Tensor:
            draw = torch.rand(3, len(images), generator=generator, device=images.device) * 2 - 1
            degrees, shift_x, shift_y = draw[0] * self.degrees, draw[1] * self.shift, draw[2] * self.shift
            return warp(images, degrees=degrees, shift_x=shift_x, shift_y=shift_y)

        # Interpolation alone would change the image by a rounding error.
        tries = self.tries if self.degrees or self.shift else 0
        return worst_of(model, images, labels, changed, tries)


def warp(
    images: Tensor,
    *,
    degrees: Tensor | float = 0.0,
    shift_x: Tensor | float = 0.0,
    shift_y: Tensor | float = 0.0,
    zoom: float = 1.0,
    padding: str = "zeros",
) -> Tensor:
    """Rotate images counterclockwise about the centre, shift them right and down, enlarge them; bilinear.

    Numbers may be one an image, `[N]`; shifts are fractions of width and height. Outside lie "zeros" or the "border".
    """
    count, (height, width) = len(images), images.shape[2:]
    zeros = images.new_zeros(count)
    angle, right, down = zeros + degrees, zeros + shift_x, zeros + shift_y
    cos, sin = torch.cos(angle * math.pi / 180) / zoom, torch.sin(angle * math.pi / 180) / zoom
    # affine_grid maps the output's coordinates, from -1 to 1 along either side, to the input's: the inverse motion.
    rows = [
        [cos, -sin * height / width, -2 * (cos * right - sin * down * height / width)],
        [sin * width / height, cos, -2 * (sin * right * width / height + cos * down)],
    ]
    theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=padding, align_corners=False).clamp(0, 1)
