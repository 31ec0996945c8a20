"""MNIST and Fashion-MNIST: four IDX files, plain or packed, checked by SHA-256, which torchvision does not do."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from purify_edge.errors import InputError
from purify_toolkit.data.known_datasets import KnownDataset, Parts
from purify_toolkit.data.splits import Split, hold_out

# SHA-256 of the original files, decompressed: the wrapping gzip differs between mirrors.
SHA256 = {
    "MNIST": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}


@dataclass(frozen=True)
class Idx(KnownDataset):
    """A dataset in MNIST's format; the validation part is the end of its training images, whose order is random."""

    @property
    def files(self) -> str:
        """See `KnownDataset.files`."""
        return f"{', '.join(SHA256[self.kind])}, each plain or as .gz"

    def find(self, folder: Path) -> Path | None:
        """See `KnownDataset.find`."""
        places = (folder, folder / self.folder, folder / "raw")
        return next((place for place in places if all(_path(place, name) for name in SHA256[self.kind])), None)

    def read(self, found: Path, *, validation_size: int) -> Parts:
        """See `KnownDataset.read`; the images keep the order of the files."""
        train, test = (self._split(found, part) for part in ("train", "t10k"))
        return *hold_out(train, validation_size), test

    def _split(self, folder: Path, part: str) -> Split:
        pixels = self._payload(folder, f"{part}-images-idx3-ubyte", header_bytes=16)
        labels = self._payload(folder, f"{part}-labels-idx1-ubyte", header_bytes=8)
        return Split(pixels.reshape(-1, *self.shape), labels.long())

    def _payload(self, folder: Path, name: str, *, header_bytes: int) -> Tensor:
        """Return the payload of an IDX file, if it is the original."""
        path, sha256 = _path(folder, name), SHA256[self.kind][name]
        assert path is not None
        try:
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} cannot be read: {error}; remove it and fetch it again") from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != sha256:
            raise InputError(
                f"{path} is not the original: expected SHA-256 {sha256} of the decompressed file, "
                f"got {digest}; remove it and fetch it again"
            )
        return torch.from_numpy(np.frombuffer(bytearray(content), np.uint8, offset=header_bytes))


def _path(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
