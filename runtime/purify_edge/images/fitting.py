"""How a picture of any size becomes the pixels of an input contract: one rule for training, export and device."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purify_edge.bundle.manifest import InputContract, Interpolation, Preprocessing

MAX_SCALED = 16_000_000  # pixels: of a picture that is scaled to more, only what is kept is made
FILTERS: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
Sides = tuple[int, int]
"""Width and height."""


def fitted(image: Image.Image, contract: InputContract) -> NDArray[np.uint8]:
    """Return an image of mode "L" or "RGB" as uint8 `[H, W, C]` of the contract.

    Colour becomes grey (ITU-R 601) or grey colour, as the contract's C asks; then see `Preprocessing`.
    """
    mode = "L" if contract.channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (contract.width, contract.height) or contract.preprocessing.scaled:
        image = _scaled_and_framed(image, (contract.width, contract.height), contract.preprocessing)
    return np.asarray(image, dtype=np.uint8).reshape(contract.height, contract.width, contract.channels)


def _scaled_and_framed(image: Image.Image, size: Sides, how: Preprocessing) -> Image.Image:
    """Return an image scaled, then cut or filled to a width and height about its centre."""
    scaled = _scaled_sides(image.size, size, how)
    left, top = (_start(long, short, how) for long, short in zip(scaled, size, strict=True))
    kept = max(0, left), max(0, top), min(left + size[0], scaled[0]), min(top + size[1], scaled[1])
    part = _part(image, scaled, kept, how)
    if part.size == size:
        return part
    canvas = Image.new("RGB", size, how.fill).convert(image.mode)
    canvas.paste(part, (max(0, -left), max(0, -top)))
    return canvas


def _scaled_sides(source: Sides, size: Sides, how: Preprocessing) -> Sides:
    """Return the sides of the whole picture once it is scaled."""
    goal = size if how.scaled is None else (how.scaled[1], how.scaled[0])
    if how.resize == "stretch":
        return goal
    ratios = [side / end for side, end in zip(source, goal, strict=True)]
    leading = ratios.index(min(ratios) if how.resize == "shortest" else max(ratios))
    other = 1 - leading
    if how.rounding == "nearest":
        follows = round(source[other] / ratios[leading])
    else:
        follows = int(goal[leading] * source[other] / source[leading])
    follows = max(1, follows)
    return (goal[0], follows) if leading == 0 else (follows, goal[1])


def _start(scaled: int, side: int, how: Preprocessing) -> int:
    """Return where the input begins in the scaled picture, along one side; below 0 where there is to fill."""
    spare = scaled - side
    if spare < 0:
        return -(-spare // 2)
    return spare // 2 if how.centre == "down" else round(spare / 2)


def _part(image: Image.Image, scaled: Sides, kept: tuple[int, int, int, int], how: Preprocessing) -> Image.Image:
    """Return a part of the scaled picture: left, top, right and bottom are `kept`."""
    if scaled != image.size and not how.antialias and how.interpolation == "bilinear":
        return _sampled(image, scaled, kept)
    if scaled[0] * scaled[1] > MAX_SCALED:
        left, top, right, bottom = (edge * image.size[i % 2] / scaled[i % 2] for i, edge in enumerate(kept))
        part = (kept[2] - kept[0], kept[3] - kept[1])
        return image.resize(part, FILTERS[how.interpolation], box=(left, top, right, bottom))
    if scaled != image.size:
        image = image.resize(scaled, FILTERS[how.interpolation])
    return image if kept == (0, 0, *scaled) else image.crop(kept)


def _sampled(image: Image.Image, scaled: Sides, kept: tuple[int, int, int, int]) -> Image.Image:
    """Return a part of the picture scaled bilinearly without antialiasing: each pixel is made of the nearest four."""
    pixels: NDArray[np.generic] = np.asarray(image)
    for axis, side, start, stop in ((0, scaled[1], kept[1], kept[3]), (1, scaled[0], kept[0], kept[2])):
        length = pixels.shape[axis]
        places = ((np.arange(start, stop) + 0.5) * (length / side) - 0.5).clip(0, length - 1)
        below = places.astype(np.intp)
        shape = [-1 if axis == place else 1 for place in range(pixels.ndim)]
        share = (places - below).astype(np.float32).reshape(shape)
        low, high = pixels.take(below, axis), pixels.take((below + 1).clip(max=length - 1), axis)
        pixels = low * (1 - share) + high * share
    return Image.fromarray(np.rint(pixels).astype(np.uint8))
