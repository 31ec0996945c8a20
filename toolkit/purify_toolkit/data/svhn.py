"""SVHN: cropped house numbers in two .mat files, read by torchvision once their MD5 sums are right."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision.datasets

from purify_edge.errors import InputError
from purify_toolkit.data import class_names
from purify_toolkit.data.source import Parts
from purify_toolkit.data.splits import Split, hold_out

FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}


@dataclass(frozen=True)
class Svhn:
    """Street View House Numbers (Netzer et al. 2011), the digits cropped to 32 x 32; label 0 is the digit 0.

    The validation part is the end of the 73,257 training images. They come house by house, so no more than one house
    number can have digits in both parts; a shuffle would spread them all.
    """

    title: str = "SVHN"
    classes: tuple[str, ...] = class_names.DIGITS
    shape: tuple[int, int, int] = (3, 32, 32)
    files: str = " and ".join(FILES.values())

    def find(self, folder: Path) -> Path | None:
        """The folder of the two files."""
        places = (folder, folder / "SVHN")
        return next((place for place in places if all((place / name).is_file() for name in FILES.values())), None)

    def fetch(self, folder: Path) -> None:
        """Into `folder`/SVHN."""
        for part in FILES:
            torchvision.datasets.SVHN(str(folder / "SVHN"), split=part, download=True)

    def read(self, found: Path, *, validation_size: int) -> Parts:
        """The images in the files' order; InputError where one is not the original."""
        train, validation = hold_out(_split(found, "train"), validation_size)
        return train, validation, _split(found, "test")


SVHN = Svhn()


def _split(folder: Path, part: str) -> Split:
    try:
        found = torchvision.datasets.SVHN(str(folder), split=part)
    except RuntimeError as error:
        path = folder / FILES[part]
        raise InputError(f"{path} is not the original: its MD5 sum is wrong; remove it and fetch it again") from error
    return Split(torch.from_numpy(found.data).contiguous(), torch.from_numpy(found.labels))
