"""The golden set's images as files of many kinds, larger than the input and of odd sizes."""

import io
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from purify_edge.bundle.golden_files import GoldenFiles, thinned
from purify_edge.bundle.manifest import InputContract
from purify_edge.images.decoding import decode_image

FILES = 16
SIZES = ((1.2, 1.6), (1.6, 1.2), (1.4, 1.4), (1.9, 1.1))
"""Height and width of the pictures, as multiples of the input's."""
ORIENTATION, TURNED = 0x0112, 6
PNG = (".png", {"format": "PNG"}, (1.1, 1.1))  # smaller, because it hardly compresses
JPEG: dict[str, Any] = {"format": "JPEG", "quality": 85, "subsampling": "4:2:0"}


def golden_files(images_u8: Tensor, contract: InputContract) -> GoldenFiles | None:
    """Return the first images `[N, C, H, W]` as files, and what this decoder makes of them; None for odd channels.

    A picture is cut out of four images side by side, so that it has the details of photographs that were not resized.
    """
    if contract.channels not in (1, 3):
        return None
    images = np.ascontiguousarray(images_u8[:FILES].permute(0, 2, 3, 1).numpy())
    files = dict(_file(images, index) for index in range(len(images)))
    pixels = [thinned(decode_image(content, contract, source=name)) for name, content in files.items()]
    return GoldenFiles(files, np.stack(pixels))


def _file(images: np.ndarray, index: int) -> tuple[str, bytes]:
    """Return the name and content of a file: every eighth is PNG, of the JPEGs some are progressive or turned."""
    size, suffix, options = SIZES[index % len(SIZES)], ".jpg", JPEG | {"progressive": index % 3 == 1}
    if index % 8 == 3:
        suffix, options, size = PNG
    elif index % 8 == 5:
        exif = Image.Exif()
        exif[ORIENTATION] = TURNED
        options = options | {"exif": exif}
    buffer = io.BytesIO()
    Image.fromarray(_mosaic(images, index, size)).save(buffer, **options)
    return f"{index:02d}{suffix}", buffer.getvalue()


def _mosaic(images: np.ndarray, index: int, size: tuple[float, float]) -> np.ndarray:
    """Return a picture of odd height and width, `[H, W, 3]` or `[H, W]`, out of four images."""
    four = [images[(index + step) % len(images)] for step in range(4)]
    whole = np.concatenate([np.concatenate(four[:2], axis=1), np.concatenate(four[2:], axis=1)])
    height, width = (int(side * factor) | 1 for side, factor in zip(images.shape[1:3], size, strict=True))
    return np.ascontiguousarray(whole[:height, :width, 0] if images.shape[3] == 1 else whole[:height, :width])
