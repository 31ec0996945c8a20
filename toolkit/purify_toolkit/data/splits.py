"""Image data as tensors: a dataset's three parts, and where downloads are kept."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from purify_edge.errors import InputError
from purify_toolkit.data.pixels import batch_size, to_float


@dataclass(frozen=True)
class Split:
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]`."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> "Split":
        return Split(self.images[index], self.labels[index])

    def sha256(self) -> str:
        """Return the SHA-256 of images and labels."""
        return _sha256(self)


@dataclass(frozen=True)
class ImageData:
    """A dataset in three parts that share no image."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    own_validation: bool = False  # whether the validation part came with the data; else it was taken from their train
    unlabelled: bool = False  # whether labels are what a classifier answers: accuracy is agreement with it then
    class_map: dict[str, int] | None = None  # the label of each class's folder, where they are a network's outputs

    def limited(self, count: int) -> "ImageData":
        """Return the first `count` images of each part, for a quick trial."""
        return replace(self, train=self.train[:count], validation=self.validation[:count], test=self.test[:count])

    def mean_std(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of the training pixels, a value for each channel, in units of [0, 1].

        The deviation of a channel that is the same everywhere is given as that of one level in 255, for networks divide
        by it.
        """
        pixels = self.train.images.transpose(0, 1).flatten(1)  # their histogram, for floats would take much memory
        counts = torch.stack([torch.bincount(channel, minlength=256) for channel in pixels]).double()
        shares, levels = counts / pixels.shape[1], torch.arange(256, dtype=torch.float64) / 255
        mean = (shares * levels).sum(1, keepdim=True)
        std = (shares * (levels - mean) ** 2).sum(1).sqrt()  # of so many pixels, n or n - 1 is the same
        return mean.flatten().tolist(), std.clamp(min=1 / 255).tolist()

    def sha256(self) -> str:
        """Return the SHA-256 of all images and labels, which tells whether two are the same data."""
        return _sha256(self.train, self.validation, self.test)


def _sha256(*splits: Split) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(repr(tuple(split.images.shape)).encode())
        digest.update(split.images.numpy().tobytes() + split.labels.numpy().tobytes())
    return digest.hexdigest()


def hold_out(train: Split, validation_size: int) -> tuple[Split, Split]:
    """Split off the last `validation_size` images; raise InputError where one part would be empty."""
    check_validation_size(validation_size, len(train))
    return train[:-validation_size], train[-validation_size:]


def check_validation_size(validation_size: int, count: int) -> None:
    """Raise InputError unless `validation_size` of `count` training images leave some to train on."""
    if not 0 < validation_size < count:
        raise InputError(
            f"validation_size must be between 1 and {count - 1}, got {validation_size}: so many of the {count} "
            "training images are held out for validation; the recipe says how many"
        )


def cache_folder() -> Path:
    """Return where torchvision's downloads are kept: `$PURIFY_DATA`, else `~/.cache/purify-edge`."""
    return Path(os.environ.get("PURIFY_DATA") or Path.home() / ".cache" / "purify-edge")


def batches(split: Split, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images float `[B, C, H, W]` in [0, 1] and labels, on `device`, in order."""
    size = batch_size(split.images, device)
    for images, labels in zip(split.images.split(size), split.labels.split(size), strict=True):
        yield to_float(images, device), labels.to(device)
