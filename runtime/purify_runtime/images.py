"""Images in: arrays and files, checked and brought to the bundle's input contract."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from purify_runtime.errors import InputError
from purify_runtime.manifest import InputContract

MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG")


def as_batch(images: NDArray[np.generic], contract: InputContract) -> NDArray[np.float32]:
    """Images as the models take them: float32 `[N, C, H, W]` in [0, 1], contiguous.

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
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):  # written so that NaN fails
        hint = "; values up to 255 belong in a uint8 [N, H, W, C] array" if high > 1 else ""
        raise InputError(f"expected pixels in [0, 1], got [{low:g}, {high:g}]{hint}")
    return np.ascontiguousarray(images, dtype=np.float32)


def _expect_shape(images: NDArray[np.generic], shape: tuple[int, ...], layout: str) -> None:
    if images.ndim != 4 or images.shape[1:] != shape or not len(images):
        raise InputError(f"expected {layout} of shape {('N', *shape)} with N >= 1, got {images.shape}")


def read_image(path: str | Path, contract: InputContract) -> NDArray[np.uint8]:
    """Read a PNG or JPEG of any size and mode as uint8 `[H, W, C]` of the contract.

    In this order: EXIF orientation is applied; 16 bits become 8 by keeping the upper ones; transparency is laid over
    black; colour becomes grey (ITU-R 601) or grey colour, as the contract's C asks; the image is resized to
    H x W, its aspect ratio not kept, by a bilinear filter that averages when it shrinks.

    Raises:
        InputError: no such file, not a PNG or JPEG, damaged, or of more than 64 million pixels.
    """
    try:
        with Image.open(path, formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                raise InputError(
                    f"{path} has {file.width} x {file.height} pixels, more than {MAX_PIXELS:,}; scale it down"
                )
            image = ImageOps.exif_transpose(file)
            pixels = _resized(image, contract)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} has more than {MAX_PIXELS:,} pixels; scale it down") from error
    except Exception as error:  # decoders raise almost anything at a damaged file
        reason = "is empty" if _is_empty(path) else f"cannot be read as PNG or JPEG ({error})"
        raise InputError(f"{path} {reason}") from error
    return pixels


def _is_empty(path: str | Path) -> bool:
    try:
        return Path(path).stat().st_size == 0
    except OSError:
        return False


def _resized(image: Image.Image, contract: InputContract) -> NDArray[np.uint8]:
    if contract.channels not in (1, 3):
        raise InputError(f"image files have 1 or 3 channels, the bundle takes {contract.channels}; pass arrays instead")
    image = _opaque_8bit(image).convert("L" if contract.channels == 1 else "RGB")
    size = (contract.width, contract.height)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(contract.height, contract.width, contract.channels)


def _opaque_8bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip at 255
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image


def to_8bit(image_CHW: NDArray[np.floating[Any]]) -> Image.Image:
    """A model's image, float32 `[C, H, W]` in [0, 1], as one that can be saved."""
    pixels = (image_CHW.transpose(1, 2, 0) * 255).round().astype(np.uint8)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
