"""AVIF and HEIC, which are read where Pillow or its plugin can; a decoder is registered when such a file is met."""

from typing import BinaryIO

from PIL import Image, features

from purify_edge.errors import InputError, MissingError
from purify_edge.extras import require_library

AVIF, HEIF = "AVIF", "HEIF"
HEAD_BYTES = 64
AVIF_BRANDS = {b"avif", b"avis"}
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def format_of(content: bytes | BinaryIO, *, source: str) -> str | None:
    """Return Pillow's name of an AVIF or HEIC image's format, its decoder registered; None for other images.

    Raises:
        InputError: the decoder is not installed.
    """
    brands = _brands(content)
    if brands & AVIF_BRANDS:
        Image.init()
        if not (AVIF in Image.OPEN and features.check("avif")):
            raise InputError(f"{source} is an AVIF image, which this Pillow cannot read: pip install 'Pillow>=11.3'")
        return AVIF
    if brands & HEIF_BRANDS:
        try:
            require_library("pillow_heif", "heif").register_heif_opener()
        except MissingError as error:
            raise InputError(f"{source} is a HEIC image: {error}") from error
        return HEIF
    return None


def _brands(content: bytes | BinaryIO) -> set[bytes]:
    """Return what a file says that it is compatible with, where its first box is of that kind."""
    if isinstance(content, bytes):
        head = content[:HEAD_BYTES]
    else:
        head = content.read(HEAD_BYTES)
        content.seek(0)
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[place : place + 4] for place in range(16, end, 4))}
