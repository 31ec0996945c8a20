"""Image files in: any format, size and mode, decoded within bounds and brought to the bundle's input contract."""

import io
import os
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError

MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 512 * 1024 * 1024
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SMALL_BYTES = 1_000_000  # read at once
LARGE_PIXELS = 8_000_000
ORIENTED = frozenset(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))  # where Pillow finds an orientation
_large = threading.Lock()  # readers are several: only one of them has a large image in memory
_small = nullcontext()


def read_image(path: str | Path, contract: InputContract) -> NDArray[np.uint8]:
    """Read an image file as uint8 `[H, W, C]` of the contract; see `decode_image`.

    Raises:
        InputError: no such file, or see `decode_image`.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # a Path takes longer than a small image
            size_bytes = os.fstat(file.fileno()).st_size
            content = file.read() if 0 < size_bytes <= SMALL_BYTES else file
            return decode_image(content, contract, source=str(path), size_bytes=size_bytes)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # a path that holds NUL is a ValueError
        raise InputError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error


def decode_image(
    content: bytes | BinaryIO, contract: InputContract, *, source: str, size_bytes: int | None = None
) -> NDArray[np.uint8]:
    """Decode an image of any size and mode to uint8 `[H, W, C]` of the contract.

    In this order: the first frame of an animation or page of a document is taken; EXIF orientation is applied; 16 bits
    become 8 by keeping the upper ones; transparency is laid over black; CMYK and the like become RGB without colour
    management; colour becomes grey (ITU-R 601) or grey colour, as the contract's C asks; the image is resized to H x W,
    its aspect ratio not kept, by a bilinear filter that averages when it shrinks.

    Args:
        content: of the file, or the file itself, open.
        contract: the bundle's C, H and W.
        source: what errors call it.
        size_bytes: of the content, where it is a file.

    Raises:
        InputError: not an image, damaged, of more than MAX_PIXELS, or of a mode whose range of values is unknown.
    """
    if contract.channels not in (1, 3):
        raise InputError(f"image files have 1 or 3 channels, the bundle takes {contract.channels}; pass arrays instead")
    size_bytes = len(content) if isinstance(content, bytes) else size_bytes
    if size_bytes == 0:
        raise InputError(f"{source} is empty")
    if size_bytes is not None and size_bytes > MAX_FILE_BYTES:
        raise InputError(f"{source} has {size_bytes:,} bytes, more than {MAX_FILE_BYTES:,}; is it an image?")
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS) as file:
            return _within_bounds(file, contract, source)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{source} has more than {MAX_PIXELS:,} pixels; scale it down") from error
    except Exception as error:  # decoders raise almost anything at a damaged file
        raise InputError(f"{source} cannot be read as an image ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"its format is none of {', '.join(FORMATS)}"
    return str(error) or type(error).__name__


def _within_bounds(file: Image.Image, contract: InputContract, source: str) -> NDArray[np.uint8]:
    pixels = file.width * file.height
    if pixels > MAX_PIXELS:
        raise InputError(f"{source} has {file.width} x {file.height} pixels, more than {MAX_PIXELS:,}; scale it down")
    if file.mode == "F" or (file.mode == "I" and file.format == "TIFF"):
        raise InputError(f"{source} has 32-bit pixels, whose range is not known; convert it to 8 or 16 bits")
    with _large if pixels > LARGE_PIXELS else _small:
        file.load()
        if file.format == "TIFF" or not ORIENTED.isdisjoint(file.info):
            ImageOps.exif_transpose(file, in_place=True)
        return fitted(file, contract)


def fitted(image: Image.Image, contract: InputContract) -> NDArray[np.uint8]:
    """An image of any size, 8 or 16 bits, as uint8 `[H, W, C]` of the contract; see `decode_image`."""
    image, mode = _opaque_8bit(image), "L" if contract.channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
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
