"""CIFAR-10 and CIFAR-100: pickled batches, read by torchvision once their MD5 sums are right."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision.datasets
from torchvision.datasets.utils import check_integrity

from purify_edge.errors import InputError
from purify_toolkit.data import class_names
from purify_toolkit.data.source import Parts
from purify_toolkit.data.splits import Split, hold_out


@dataclass(frozen=True)
class Cifar:
    """A dataset of 32 x 32 colour images by Krizhevsky (2009); `kind` is torchvision's class for it.

    The validation part is the end of the 50,000 training images, whose order is random. Unpickling runs what a file
    says; torchvision does so only after all MD5 sums have proved right.
    """

    title: str
    kind: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int] = (3, 32, 32)

    @property
    def files(self) -> str:
        """The folder and the files in it."""
        return f"torchvision's folder {self._torchvision.base_folder} with {', '.join(self._md5())}"

    def find(self, folder: Path) -> Path | None:
        """The folder of the batches, in `folder` or `folder` itself."""
        inner = self._torchvision.base_folder
        places = [folder / inner] + ([folder] if folder.absolute().name == inner else [])
        return next((place for place in places if all((place / name).is_file() for name in self._md5())), None)

    def fetch(self, folder: Path) -> None:
        """Into `folder`, as the makers' archive and unpacked from it."""
        self._torchvision(str(folder), download=True)

    def read(self, found: Path, *, validation_size: int) -> Parts:
        """The images in the files' order; InputError where one is not the original."""
        train, validation = hold_out(self._split(found, train=True), validation_size)
        return train, validation, self._split(found, train=False)

    @property
    def _torchvision(self) -> Any:
        return getattr(torchvision.datasets, self.kind)

    def _md5(self) -> dict[str, str]:
        of = self._torchvision
        return dict(of.train_list + of.test_list) | {of.meta["filename"]: of.meta["md5"]}

    def _split(self, folder: Path, *, train: bool) -> Split:
        try:
            found = self._torchvision(str(folder.absolute().parent), train=train)
        except RuntimeError as error:
            damaged = [name for name, md5 in self._md5().items() if not check_integrity(str(folder / name), md5)]
            raise InputError(
                f"{folder} is not the original: the MD5 sum is wrong of {', '.join(damaged)}; "
                "remove the folder and fetch it again"
            ) from error
        images = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
        return Split(images, torch.tensor(found.targets))


CIFAR10 = Cifar("CIFAR-10", "CIFAR10", class_names.CIFAR10)
CIFAR100 = Cifar("CIFAR-100", "CIFAR100", class_names.CIFAR100)
