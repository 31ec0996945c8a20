"""Image files, good and bad, made by hand."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from purify_edge.bundle.manifest import InputContract

GREY = InputContract(channels=1, height=28, width=28)
COLOUR = InputContract(channels=3, height=28, width=28)


def png(width: int, height: int) -> bytes:
    """A PNG that claims to be of this size; its pixel data are those of a single row."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(width + 1)))
        + chunk(b"IEND", b"")
    )


def jpeg() -> bytes:
    """A proper JPEG of noise."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


BAD_IMAGES: dict[str, tuple[bytes, str]] = {
    "empty.png": (b"", "is empty"),
    "text.png": (b"this is not an image\n", "cannot be read as an image"),
    "gif.png": (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "cannot be read as an image"),
    "zero.png": (png(0, 0), "cannot be read as an image"),
    "cut.jpg": (jpeg()[:700], "cannot be read as an image"),
    "huge.png": (png(8_100, 8_000), "more than 64,000,000"),
    "bomb.png": (png(60_000, 60_000), "more than 64,000,000"),
}


def zipped(folder: Path, target: Path, *parts: str) -> Path:
    """A zip of the files in a folder's parts, or in all of it; it may lie in a folder that is new."""
    target.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        for part in parts or [""]:
            for path in sorted(path for path in (folder / part).rglob("*") if path.is_file()):
                archive.write(path, path.relative_to(folder))
    return target
