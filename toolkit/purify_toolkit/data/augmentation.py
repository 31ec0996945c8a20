"""How training images are varied, so that a network does not learn them by heart."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import resized_crop

from purify_toolkit.data.batch import Batch


def augment(images_u8: Tensor, batch: Batch, *, shift: int = 2, cutout: int = 0) -> Tensor:
    """Mirror each image at random, shift it and make a square of it black; uint8 as they came, on their device.

    Args:
        images_u8: `[N, C, H, W]`.
        batch: whose share they are, as `Batch.mine` has it.
        shift: the most by which an image is shifted along each axis, in pixels; the gap is black.
        cutout: side of the square, somewhere within the image, in pixels (DeVries and Taylor 2017, arXiv 1708.04552).
    """
    (count, _, height, width), of_all, generator = images_u8.shape, len(batch.indices), batch.generator
    device = images_u8.device
    mirrored = (torch.rand(of_all, generator=generator) < 0.5)[batch.share].to(device)
    images = torch.where(mirrored[:, None, None, None], images_u8.flip(3), images_u8)
    padded = F.pad(images, (shift,) * 4)
    first = torch.randint(0, 2 * shift + 1, (2, of_all, 1), generator=generator)[:, batch.share]
    rows, columns = (
        (start + torch.arange(size)).to(device) for start, size in zip(first, (height, width), strict=True)
    )
    example = torch.arange(count, device=device)[:, None, None]
    shifted = padded[example, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if not cutout:
        return shifted
    corners = [torch.randint(0, size - cutout + 1, (of_all, 1), generator=generator) for size in (height, width)]
    inside = [
        _range(corner[batch.share], cutout, size).to(device)
        for corner, size in zip(corners, (height, width), strict=True)
    ]
    return shifted.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)


def random_crops(images_u8: Tensor, *, smallest: float, generator: torch.Generator) -> Tensor:
    """Crop a random part of each image, in its proportions, and scale it to the image's size; bilinear, antialiased.

    Args:
        images_u8: `[N, C, H, W]`, on the CPU.
        smallest: the share of an image's sides that the smallest part keeps; shares are drawn evenly from there to 1.
        generator: of all random choices, on any device.
    """
    (count, _, height, width), cropped = images_u8.shape, images_u8.clone()
    drawn = torch.rand(count, 3, generator=generator, device=generator.device).tolist()
    for image, (size, down, right) in zip(cropped, drawn, strict=True):
        share = smallest + size * (1 - smallest)
        part = round(share * height), round(share * width)
        corner = round(down * (height - part[0])), round(right * (width - part[1]))
        image.copy_(resized_crop(image, *corner, *part, [height, width]))
    return cropped


def _range(first: Tensor, length: int, size: int) -> Tensor:
    """Return which of `size` places lie in the `length` from `first` `[N, 1]` on: `[N, size]`."""
    place = torch.arange(size) - first
    return (place >= 0) & (place < length)
