"""The golden set's files: pictures as files carry them, with what the exporter's decoder and resampler made of them."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.manifest import InputContract
from purify_edge.bundle.reader import Bundle
from purify_edge.errors import BundleError

PIXELS = "pixels.raw"
SIDE = 80
"""Rows and columns of an image that are kept, at most about so many: the file is to stay small."""
MAX_BYTES = 64_000_000


@dataclass(frozen=True)
class GoldenFiles:
    """F image files by name, and some pixels of what they become; see `thinned`."""

    files: Mapping[str, bytes]
    pixels: NDArray[np.uint8]  # uint8 `[F, h, w, C]`, in the order of the files


def thinned(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image `[H, W, C]`, or of a large one every second, third ... row and column."""
    step = 1 + max(image.shape[:2]) // SIDE
    return image[::step, ::step]


def encode_files(golden: GoldenFiles) -> bytes:
    """Return the files and the pixels as a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (*golden.files.items(), (PIXELS, golden.pixels.tobytes())):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # without the time
    return buffer.getvalue()


def load_files(bundle: Bundle) -> GoldenFiles | None:
    """Return the golden set's files of a bundle, verified; None of a bundle from before there were any.

    Raises:
        BundleError: damaged, or not what the manifest says.
    """
    entry = bundle.manifest.golden.files
    if entry is None:
        return None
    content = bundle.read(entry)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_BYTES:,} bytes")
            files = {name: archive.read(name) for name in archive.namelist()}
        pixels = np.frombuffer(files.pop(PIXELS), np.uint8)
        if not files:
            raise ValueError(f"there is nothing but {PIXELS}")
        return GoldenFiles(files, pixels.reshape(len(files), *_shape(bundle.manifest.input)))
    except Exception as error:  # zipfile raises almost anything at a malformed file
        raise BundleError(f"{entry.path} does not hold the golden files: {error}; export the bundle again") from error


def _shape(contract: InputContract) -> tuple[int, ...]:
    return thinned(np.broadcast_to(np.uint8(0), (contract.height, contract.width, contract.channels))).shape
