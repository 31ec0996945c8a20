"""The golden set: 8-bit images with labels and what the PyTorch reference made of them.

The file holds the purified images of a split's first images only, as many as take PURIFIED_BYTES, because they are
float32 and hardly compress; and of attacked and noisy images what was added to the clean ones, which compresses.
"""

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.reader import Bundle
from purify_edge.errors import BundleError


@dataclass(frozen=True)
class GoldenSplit:
    """One part of the golden set, `clean`, `adversarial` or, in bundles since it was added, `noise`; N images."""

    images: NDArray[np.uint8]  # uint8 `[N, H, W, C]`, as a file or a camera carries them
    labels: NDArray[np.int64]  # int64 `[N]`, the true classes
    purified: NDArray[np.float32]  # float32 `[M, C, H, W]`, the reference purifier's output of the first M images
    classifier: NDArray[np.float32]  # float32 `[N, K]`, the reference classifier's logits of the unpurified images
    defended: NDArray[np.float32]  # float32 `[N, K]`, its logits of the purified ones

    def __len__(self) -> int:
        return len(self.labels)


NPY_HEADER_BYTES = 1024
PURIFIED_BYTES, LEAST_PURIFIED = 3_200_000, 4
CLEAN = "clean"
NAMES = tuple(field.name for field in fields(GoldenSplit))


def encode_golden(splits: Mapping[str, GoldenSplit]) -> bytes:
    """Return the golden set as a compressed npz with an array `<split>_<name>` for each field.

    Where a split has the shape of the clean one its images are `<split>_change`: modulo 256, what is added to those.
    """
    arrays: dict[str, NDArray[Any]] = {
        f"{split}_{name}": getattr(content, name) for split, content in splits.items() for name in NAMES
    }
    for split, content in splits.items():
        one = content.purified[:1].nbytes
        arrays[f"{split}_purified"] = content.purified[: max(LEAST_PURIFIED, PURIFIED_BYTES // max(1, one))]
        if split != CLEAN and CLEAN in splits and content.images.shape == splits[CLEAN].images.shape:
            arrays[f"{split}_change"] = arrays.pop(f"{split}_images") - splits[CLEAN].images
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the first for allow_pickle
    return buffer.getvalue()


def load_golden(bundle: Bundle) -> dict[str, GoldenSplit]:
    """Return the golden set of a bundle, a split a key, verified.

    Raises:
        BundleError: damaged, or not what the manifest says.
    """
    entry = bundle.manifest.golden
    content = bundle.read(entry.file)
    expected = {name: _expected(bundle, n) for name, n in entry.splits.items()}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            _bound(arrays.zip, expected)
            splits = {split: _split(arrays, split) for split in entry.splits}
    except Exception as error:  # numpy and zipfile raise almost anything at a malformed file
        raise BundleError(
            f"{entry.file.path} does not hold the golden set: {error}; export the bundle again"
        ) from error
    for name, split in splits.items():
        found = {key: (getattr(split, key).dtype.name, getattr(split, key).shape) for key in NAMES}
        dtype, (n, *image) = expected[name]["purified"]
        if 1 <= (count := next(iter(split.purified.shape), 0)) <= n:
            expected[name]["purified"] = (dtype, (count, *image))
        if found != expected[name]:
            raise BundleError(
                f"the golden set's split {name!r} holds {found}, expected {expected[name]}; export the bundle again"
            )
    return splits


def _split(arrays: Mapping[str, NDArray[Any]], split: str) -> GoldenSplit:
    """Return a split of the file's arrays."""
    fields = {name: arrays[f"{split}_{name}"] for name in NAMES if name != "images"}
    change = f"{split}_change"
    images = arrays[f"{CLEAN}_images"] + arrays[change] if change in arrays else arrays[f"{split}_images"]
    return GoldenSplit(images=images, **fields)


Arrays = dict[str, tuple[str, tuple[int, ...]]]
"""Name -> dtype and shape."""


def _expected(bundle: Bundle, n: int) -> Arrays:
    """Return what a split of n images must hold."""
    contract, classes = bundle.manifest.input, len(bundle.manifest.class_names)
    return {
        "images": ("uint8", (n, contract.height, contract.width, contract.channels)),
        "labels": ("int64", (n,)),
        "purified": ("float32", (n, contract.channels, contract.height, contract.width)),
        "classifier": ("float32", (n, classes)),
        "defended": ("float32", (n, classes)),
    }


def _bound(archive: zipfile.ZipFile, splits: Mapping[str, Arrays]) -> None:
    """Refuse an archive that would unpack to more than the manifest announces."""
    arrays = [array for split in splits.values() for array in split.values()]
    announced = sum(np.dtype(dtype).itemsize * math.prod(shape) + NPY_HEADER_BYTES for dtype, shape in arrays)
    found = sum(info.file_size for info in archive.infolist())
    if found > announced:
        raise ValueError(f"it unpacks to {found} bytes, the manifest announces {announced} at most")
