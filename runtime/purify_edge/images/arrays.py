"""Arrays of images, checked and brought to the bundle's input contract."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError


def as_batch(images: NDArray[np.generic], contract: InputContract) -> NDArray[np.float32]:
    """Return images as the models take them: float32 `[N, C, H, W]` in [0, 1], contiguous.

    Args:
        images: float `[N, C, H, W]` in [0, 1], or uint8 `[N, H, W, C]` as a camera gives them.
        contract: the bundle's C, H and W.

    Raises:
        InputError: another rank, shape or dtype, no image at all, or a value that is not in [0, 1].
    """
    if not isinstance(images, np.ndarray):
        raise InputError(f"expected a numpy array of images, got {type(images).__name__}")
    channels, height, width = contract.channels, contract.height, contract.width
    if images.dtype == np.uint8:
        _expect_shape(images, (height, width, channels), "uint8 [N, H, W, C]")
        floats = images.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        floats /= 255
        return floats
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(
            f"expected uint8 [N, H, W, C] or float [N, C, H, W] in [0, 1], got dtype {images.dtype}; convert it first"
        )
    _expect_shape(images, (channels, height, width), "float [N, C, H, W]")
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):  # written so that NaN fails
        raise InputError(_out_of_range(images))
    return np.ascontiguousarray(images, dtype=np.float32)


def _out_of_range(images: NDArray[np.generic]) -> str:
    """Return what is wrong with the first image whose pixels do not lie in [0, 1]."""
    values = images.reshape(len(images), -1).astype(np.float64)
    place = int(np.argmin(((values >= 0) & (values <= 1)).all(axis=1)))
    image = values[place]
    which = f"image {place}: " if len(images) > 1 else ""
    if not np.isfinite(image).all():
        return f"{which}expected pixels in [0, 1], got {np.count_nonzero(~np.isfinite(image)):,} that are not finite"
    low, high = float(image.min()), float(image.max())
    if low >= -0.01 and high <= 1.01:
        hint = "np.clip(images, 0, 1) mends it"
    elif low >= 0 and high > 2:
        hint = "values up to 255 belong in a uint8 [N, H, W, C] array"
    else:
        hint = "the classifier normalises itself: pass the pixels before mean and std"
    return f"{which}expected pixels in [0, 1], got {low!r} to {high!r}; {hint}"


def _expect_shape(images: NDArray[np.generic], shape: tuple[int, ...], layout: str) -> None:
    if images.ndim != 4 or images.shape[1:] != shape or not len(images):
        raise InputError(f"expected {layout} of shape {('N', *shape)} with N >= 1, got {images.shape}")


def to_8bit(image_CHW: NDArray[np.floating[Any]]) -> Image.Image:
    """Turn a model's image, float32 `[C, H, W]` in [0, 1], into one that can be saved."""
    pixels = (image_CHW.transpose(1, 2, 0) * 255).round().astype(np.uint8)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
