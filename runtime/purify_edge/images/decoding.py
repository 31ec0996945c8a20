"""The one decoder of image files, for training, export and device: any format, size and mode, within bounds."""

import io
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError
from purify_edge.images.fitting import fitted
from purify_edge.images.heif import AVIF, HEIF, format_of

Result = TypeVar("Result")

MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 512 * 1024 * 1024
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM")
_PNG, _JPEG = (".png", ".apng"), (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
_OTHERS = (".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
_HEIF = (".avif", ".heic", ".heif")
IMAGE_SUFFIXES = frozenset((*_PNG, *_JPEG, *_OTHERS, *_HEIF))
SMALL_BYTES = 1_000_000  # read at once
LARGE_PIXELS = 8_000_000
ORIENTED = frozenset(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))  # where Pillow finds an orientation
_large = threading.Lock()  # readers are several: only one of them has a large image in memory
_small = nullcontext()


def read_image(path: str | Path, contract: InputContract, *, name: str | None = None) -> NDArray[np.uint8]:
    """Read an image file as uint8 `[H, W, C]` of the contract; see `decode` and `fitted`.

    Args:
        path: the file.
        contract: what it becomes.
        name: what errors call it; default its path.

    Raises:
        InputError: no such file, or see `decode_image`.
    """
    source = name or str(path)
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # a Path takes longer than a small image
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes > SMALL_BYTES:
                return decode_image(file, contract, source=source, size_bytes=size_bytes)
            content = file.read() if size_bytes else file.read(MAX_FILE_BYTES + 1)  # a pipe's size is 0
            return decode_image(content, contract, source=source)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{source}: no such file") from error
    except (OSError, ValueError) as error:  # a path that holds NUL is a ValueError
        raise InputError(f"{source} cannot be read ({getattr(error, 'strerror', None) or error})") from error


def decode_image(
    content: bytes | BinaryIO, contract: InputContract, *, source: str, size_bytes: int | None = None
) -> NDArray[np.uint8]:
    """Decode an image of any size and mode to uint8 `[H, W, C]` of the contract; see `decode` and `fitted`.

    Raises:
        InputError: the contract has neither 1 nor 3 channels, or see `decode`.
    """
    require_channels(contract, source)
    return decode(content, lambda image: fitted(image, contract), source=source, size_bytes=size_bytes)


def picture(image: Image.Image, contract: InputContract) -> NDArray[np.uint8]:
    """Return a PIL image of any size and mode as uint8 `[H, W, C]` of the contract, as its file would be; see `decode`.

    Raises:
        InputError: the contract has neither 1 nor 3 channels, or see `decode`.
    """
    source = f"the {image.mode} image"
    require_channels(contract, source)
    try:
        turned = ImageOps.exif_transpose(image) if _may_be_turned(image) else image  # a copy: the user's stays as it is
        return _within_bounds(turned, lambda opaque: fitted(opaque, contract), source)
    except InputError:
        raise
    except Exception as error:  # it may be a file that was not read yet
        raise InputError(f"{source} cannot be read as an image ({_reason(error)})") from error


def require_channels(contract: InputContract, source: str) -> None:
    """Raise InputError where pictures cannot become the contract's input."""
    if contract.channels not in (1, 3):
        raise InputError(
            f"{source}: pictures have 1 or 3 channels, the bundle takes {contract.channels}; pass arrays of its size"
        )


def decode(
    content: bytes | BinaryIO, use: Callable[[Image.Image], Result], *, source: str, size_bytes: int | None = None
) -> Result:
    """Decode an image file of any mode and return what `use` makes of it.

    The image that `use` is given has mode "L" where the file is grey, else "RGB".

    In this order: the first frame of an animation or page of a document is taken; EXIF orientation is applied; 16 bits
    become 8 by keeping the upper ones; transparency is laid over black; palettes, CMYK and the like become RGB without
    colour management. A palette counts as colour, even one of greys.

    Args:
        content: the bytes of the file, or the file itself, open.
        use: turns the image into what is wanted, while no other large image is in memory.
        source: the name that errors give it.
        size_bytes: the size of the content, where it is a file.

    Raises:
        InputError: not an image, damaged, of more than MAX_PIXELS, or of a mode whose range of values is unknown.
    """
    size_bytes = len(content) if isinstance(content, bytes) else size_bytes
    if size_bytes == 0:
        raise InputError(f"{source} is empty; expected an image")
    if size_bytes is not None and size_bytes > MAX_FILE_BYTES:
        raise InputError(f"{source} has {size_bytes:,} bytes, more than {MAX_FILE_BYTES:,}; is it an image?")
    form = format_of(content, source=source)
    try:
        file_object = io.BytesIO(content) if isinstance(content, bytes) else content
        with Image.open(file_object, formats=(form,) if form else FORMATS) as file:
            return _within_bounds(file, use, source)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{source} has more than {MAX_PIXELS:,} pixels; scale it down") from error
    except Exception as error:  # decoders raise almost anything at a damaged file
        raise InputError(f"{source} cannot be read as an image ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"its format is none of {', '.join((*FORMATS, AVIF, HEIF))}"
    return str(error) or type(error).__name__


def _within_bounds(file: Image.Image, use: Callable[[Image.Image], Result], source: str) -> Result:
    pixels = file.width * file.height
    if pixels > MAX_PIXELS:
        raise InputError(f"{source} has {file.width} x {file.height} pixels, more than {MAX_PIXELS:,}; scale it down")
    if file.mode == "F" or (file.mode == "I" and file.format in ("TIFF", None)):
        raise InputError(f"{source} has 32-bit pixels, whose range is not known; convert it to 8 or 16 bits")
    with _large if pixels > LARGE_PIXELS else _small:
        file.load()
        if _may_be_turned(file):
            ImageOps.exif_transpose(file, in_place=True)
        return use(_opaque_8bit(file))


def _may_be_turned(image: Image.Image) -> bool:
    return image.format == "TIFF" or not ORIENTED.isdisjoint(image.info)


def _opaque_8bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip at 255
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image if image.mode == mode else image.convert(mode)
