"""The known datasets as torchvision publishes them: where their files lie, how they are fetched, how they are read."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torchvision.datasets
from torchvision.datasets.utils import check_integrity

from purify_edge.errors import InputError
from purify_toolkit.data.splits import Split, hold_out

Parts: TypeAlias = tuple[Split, Split, Split]  # train, validation, test
SPLITS = ({"split": "train"}, {"split": "test"})


@dataclass(frozen=True)
class KnownDataset(ABC):
    """One dataset in the format in which its makers publish it, read by a class of torchvision."""

    title: str  # the usual name
    kind: str  # the name of torchvision's class
    shape: tuple[int, int, int]  # channels, height and width of its images as tensors
    classes: tuple[str, ...]  # the names of its classes, in the order of the labels
    folder: str  # where torchvision keeps the files, below the folder that it gets
    # the arguments of torchvision's class for the training part and the test part
    parts: tuple[Mapping[str, object], Mapping[str, object]] = ({"train": True}, {"train": False})

    @property
    def torchvision(self) -> Any:
        """The class of torchvision."""
        return getattr(torchvision.datasets, self.kind)

    @property
    @abstractmethod
    def files(self) -> str:
        """Say what a folder must hold for `find` to find it."""

    @abstractmethod
    def find(self, folder: Path) -> Path | None:
        """Return where in `folder` (itself, or torchvision's place in it) the files lie; None where one is missing."""

    @abstractmethod
    def read(self, found: Path, *, validation_size: int) -> Parts:
        """Return the images in `found`, which came from `find`; raise InputError where a file is damaged."""

    def fetch(self, folder: Path) -> None:
        """Let torchvision download into `folder` what is not there; it raises many things where it cannot."""
        for part in self.parts:
            self.torchvision(str(folder), **part, download=True)


@dataclass(frozen=True)
class ChecksummedDataset(KnownDataset):
    """A dataset whose files torchvision reads after their MD5 sums have proved right: CIFAR's batches, SVHN's .mat.

    The validation part is the end of the training images. CIFAR's are in random order. SVHN's come house by house, so
    that no more than one house number can have digits in both parts; a shuffle would spread them all. Unpickling a
    batch of CIFAR runs what the file says, which is why the sums come first.
    """

    @property
    def files(self) -> str:
        """See `KnownDataset.files`."""
        names = ", ".join(self._md5())
        return f"torchvision's folder {self.folder} with {names}" if self._names_its_folder else names

    def find(self, folder: Path) -> Path | None:
        """See `KnownDataset.find`; torchvision finds CIFAR's folder under its own name only."""
        serves = not self._names_its_folder or folder.absolute().name == self.folder
        places = [folder / self.folder] + ([folder] if serves else [])
        return next((place for place in places if all((place / name).is_file() for name in self._md5())), None)

    def read(self, found: Path, *, validation_size: int) -> Parts:
        """See `KnownDataset.read`; the images keep the order of the files."""
        train, test = (self._split(found, part) for part in self.parts)
        return *hold_out(train, validation_size), test

    def fetch(self, folder: Path) -> None:
        """See `KnownDataset.fetch`."""
        super().fetch(folder if self._names_its_folder else folder / self.folder)

    @property
    def _names_its_folder(self) -> bool:
        """Return whether torchvision takes the folder above the files."""
        return hasattr(self.torchvision, "base_folder")

    def _md5(self) -> dict[str, str]:
        of = self.torchvision
        if hasattr(of, "split_list"):
            return {name: md5 for part, (_, name, md5) in of.split_list.items() if part in ("train", "test")}
        return dict(of.train_list + of.test_list) | {of.meta["filename"]: of.meta["md5"]}

    def _split(self, folder: Path, part: Mapping[str, object]) -> Split:
        try:
            root = folder.absolute().parent if self._names_its_folder else folder
            found = self.torchvision(str(root), **part)
        except RuntimeError as error:
            damaged = [name for name, md5 in self._md5().items() if not check_integrity(str(folder / name), md5)]
            raise InputError(
                f"{folder} is not the original: the MD5 sum is wrong of {', '.join(damaged)}; "
                "remove the folder and fetch it again"
            ) from error
        images, labels = torch.from_numpy(found.data), getattr(found, "targets", None)
        images = images if tuple(images.shape[1:]) == self.shape else images.permute(0, 3, 1, 2)
        return Split(images.contiguous(), torch.as_tensor(found.labels if labels is None else labels))
