"""Common corruptions: what cameras, weather and storage do to images without any intent.

After Hendrycks and Dietterich 2019 (arXiv 1903.12261) with the severities of their CIFAR-10-C. Those are for
images of 32 x 32: lengths in pixels grow here with the shorter side of larger ones. Snow, frost, fog, glass, elastic
and spatter are left out: they need pictures of their own or have no definition for one channel.
"""

import functools
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from purify_edge.errors import InputError
from purify_toolkit.attacks.base import Attack, check_images
from purify_toolkit.attacks.spatial import warp
from purify_toolkit.data.pixels import to_8bit, to_float
from purify_toolkit.networks.answers import Model

SEVERITIES = (1, 2, 3, 4, 5)
JPEG_QUALITIES = (80, 65, 58, 50, 40)

Function = Callable[[Tensor, int, torch.Generator], Tensor]
"""Images `[N, C, H, W]` in [0, 1], severity 1 to 5, generator on the images' device -> images in [0, 1]."""


def _corruption(function: Function) -> Function:
    """Check what comes, keep the result in [0, 1]."""

    @functools.wraps(function)
    def checked(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
        check_images(images)
        if severity not in SEVERITIES:
            raise InputError(f"a corruption's severity is one of 1, 2, 3, 4, 5, got {severity!r}")
        return function(images, severity - 1, generator).clamp(0, 1)

    return checked


@_corruption
def gaussian_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Add normal noise, as in poor light."""
    return images + (0.04, 0.06, 0.08, 0.09, 0.10)[severity] * _normal(images, generator)


@_corruption
def shot_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Add Poisson noise, the light's own grain: `Poisson(x c) / c`."""
    photons = (500, 250, 100, 75, 50)[severity]
    return torch.poisson(images * photons, generator=generator) / photons


@_corruption
def impulse_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Add salt and pepper: lose values to 0 or 1."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity]
    draw = torch.rand(images.shape, generator=generator, device=images.device)
    return images.masked_fill(draw < amount, 1).masked_fill(draw < amount / 2, 0)


@_corruption
def speckle_noise(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Add normal noise in proportion to the pixel."""
    return images + images * (0.06, 0.1, 0.12, 0.16, 0.2)[severity] * _normal(images, generator)


@_corruption
def gaussian_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Blur by a normal kernel."""
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[severity] * _scale(images)
    half = min(math.ceil(4 * sigma), min(images.shape[2:]) - 1)
    blurred: Tensor = tv.gaussian_blur(images, [2 * half + 1] * 2, [sigma] * 2)
    return blurred


@_corruption
def defocus_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Blur by a disk, whose edge is smoothed by a 3 x 3 normal kernel: a camera out of focus."""
    radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity]
    radius, alias = radius * _scale(images), alias * _scale(images)
    half = int(radius) + 1
    axis = torch.arange(-half, half + 1, device=images.device, dtype=images.dtype)
    disk = (axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2).to(images.dtype)
    edge = torch.exp(-(torch.arange(-1, 2, device=images.device, dtype=images.dtype) ** 2) / (2 * alias**2))
    smooth = F.conv2d(disk[None, None], (edge[:, None] * edge[None, :])[None, None], padding=1)
    kernel = (smooth / smooth.sum()).expand(images.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(images, (half,) * 4, mode="replicate"), kernel, groups=images.shape[1])


@_corruption
def motion_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Average copies shifted along a line of each image's own, near the horizontal: a moved camera."""
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity]
    sigma *= _scale(images)
    angle = (torch.rand(len(images), generator=generator, device=images.device) - 0.5) * (math.pi / 2)
    distances = range(round(radius * _scale(images)) + 1)
    weights = torch.tensor([math.exp(-(distance**2) / (2 * sigma**2)) for distance in distances])
    blurred = torch.zeros_like(images)
    for distance, weight in zip(distances, (weights / weights.sum()).tolist(), strict=True):
        right, down = distance * torch.cos(angle) / images.shape[3], distance * torch.sin(angle) / images.shape[2]
        blurred += weight * warp(images, shift_x=right, shift_y=down, padding="border")
    return blurred


@_corruption
def zoom_blur(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Average the image and enlarged copies: a camera that came nearer."""
    largest = (5, 10, 15, 20, 25)[severity]
    copies = [warp(images, zoom=1 + percent / 100, padding="border") for percent in range(largest + 1)]
    return (images + torch.stack(copies).sum(0)) / (len(copies) + 1)


@_corruption
def brightness(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Raise the brightness by a constant: V of HSV rises, hue and saturation stay."""
    value = images.amax(1, keepdim=True)
    raised = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[severity]).clamp(max=1)
    return torch.where(value > 0, images * raised / value.clamp_min(1e-6), raised)


@_corruption
def contrast(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Bring pixels nearer to each channel's mean."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + (0.75, 0.5, 0.4, 0.3, 0.15)[severity] * (images - mean)


@_corruption
def pixelate(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Lower the resolution and go back by the nearest pixel; the original shrinks by a box, not a triangle filter."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity]
    small = [max(1, int(side * share)) for side in images.shape[2:]]
    return F.interpolate(tv.resize(images, small, antialias=True), images.shape[2:], mode="nearest-exact")


@_corruption
def jpeg_compression(images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Store images as JPEG of a low quality, on the CPU; for one or three channels."""
    stored = [
        _through_jpeg(image, JPEG_QUALITIES[severity]) for image in to_8bit(images).cpu().permute(0, 2, 3, 1).numpy()
    ]
    shape = (len(images), *images.shape[2:], images.shape[1])
    return to_float(torch.from_numpy(np.array(stored, np.uint8).reshape(shape)).permute(0, 3, 1, 2), images.device)


def _through_jpeg(image_HWC: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Encode and decode an image by Pillow, as in the original; torchvision is about to drop its own codec."""
    file = io.BytesIO()
    Image.fromarray(image_HWC.squeeze(2) if image_HWC.shape[2] == 1 else image_HWC).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _normal(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(images.shape, generator=generator, device=images.device)


def _scale(images: Tensor) -> float:
    """Return the shorter side in units of CIFAR's 32 pixels, 1 at least."""
    return max(min(images.shape[2:]) / 32, 1.0)


CORRUPTIONS: dict[str, Function] = {
    function.__name__: function
    for function in (
        *(gaussian_noise, shot_noise, impulse_noise, speckle_noise),
        *(gaussian_blur, defocus_blur, motion_blur, zoom_blur),
        *(brightness, contrast, pixelate, jpeg_compression),
    )
}


@dataclass(frozen=True, kw_only=True)
class Corruption(Attack):
    """One of `CORRUPTIONS` at a severity from 1 to 5; the model is not asked."""

    name: str
    severity: int = 3

    def __str__(self) -> str:
        return f"{self.name.replace('_', ' ')}, severity {self.severity} of 5"

    def __call__(self, model: Model, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Attack.__call__`."""
        return CORRUPTIONS[self.name](images, self.severity, generator)


@dataclass(frozen=True, kw_only=True)
class Printed(Attack):
    """The images of another attack as a camera would see a print of them: resampled, noisy, stored as JPEG.

    After Kurakin et al. 2017 (arXiv 1607.02533), who photographed attacked images, without the change of view.
    """

    attack: Attack  # what makes the images
    share: float = 0.75  # of its sides that an image is scaled to, and back
    noise: float = 0.02  # standard deviation of the noise, in pixel units

    def __str__(self) -> str:
        what = f"scaled by {self.share:g} and back, noise {self.noise:g}, JPEG of quality {JPEG_QUALITIES[0]}"
        return f"{self.attack}; then {what}"

    def __call__(self, model: Model, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Attack.__call__`."""
        attacked = self.attack(model, images, labels, generator=generator)
        small = tv.resize(attacked, [max(1, round(side * self.share)) for side in images.shape[2:]], antialias=True)
        seen = tv.resize(small, list(images.shape[2:]), antialias=True)
        noisy = (seen + self.noise * _normal(images, generator)).clamp(0, 1)
        return jpeg_compression(noisy, 1, generator)
