"""Image data as tensors: Fashion-MNIST from a folder, torchvision's cache or download, or Debian's package."""

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from purify_toolkit.errors import InputError, MissingError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

# SHA-256 of the four original IDX files, decompressed: the wrapping gzip differs between mirrors.
IDX_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@dataclass(frozen=True)
class Split:
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]`."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> "Split":
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class ImageData:
    """A dataset in three parts that share no image."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    def limited(self, count: int) -> "ImageData":
        """The first `count` images of each part, for a quick trial."""
        return ImageData(self.name, self.class_names, self.train[:count], self.validation[:count], self.test[:count])

    def mean_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the training pixels, a value a channel, in units of [0, 1]."""
        pixels = self.train.images.transpose(0, 1).flatten(1)  # their histogram, for floats would take much memory
        counts = torch.stack([torch.bincount(channel, minlength=256) for channel in pixels]).double()
        shares, levels = counts / pixels.shape[1], torch.arange(256, dtype=torch.float64) / 255
        mean = (shares * levels).sum(1, keepdim=True)
        std = (shares * (levels - mean) ** 2).sum(1).sqrt()  # of so many pixels, n or n - 1 is the same
        return mean.flatten().tolist(), std.tolist()

    def sha256(self) -> str:
        """Of all images and labels: whether two are the same data."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(repr(tuple(split.images.shape)).encode())
            digest.update(split.images.numpy().tobytes() + split.labels.numpy().tobytes())
        return digest.hexdigest()


FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def load_fashion_mnist(folder: Path | None, *, validation_size: int) -> ImageData:
    """All 70,000 images of Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747).

    Args:
        folder: holds the four IDX files, plain or gzipped. Without it: torchvision's cache, else its
            download, else Debian's package `dataset-fashion-mnist`.
        validation_size: images taken from the end of the 60,000.

    Raises:
        InputError: a file in `folder` is missing, or a file's checksum is wrong.
        MissingError: no source has the data.
    """
    source = _locate(folder)
    train = Split(_images(source, "train"), _labels(source, "train"))
    if not 0 < validation_size < len(train):
        raise InputError(f"validation_size must be between 1 and {len(train) - 1}, got {validation_size}")
    return ImageData(
        name="fashion-mnist",
        class_names=FASHION_MNIST_CLASSES,
        train=train[:-validation_size],
        validation=train[-validation_size:],
        test=Split(_images(source, "t10k"), _labels(source, "t10k")),
    )


def cache_folder() -> Path:
    """Where torchvision's downloads are kept: `$PURIFY_DATA`, else `~/.cache/purify-edge`."""
    return Path(os.environ.get("PURIFY_DATA") or Path.home() / ".cache" / "purify-edge")


def _locate(folder: Path | None) -> Path:
    if folder is not None:
        if _complete(folder):
            return folder
        if _complete(folder / "FashionMNIST" / "raw"):
            return folder / "FashionMNIST" / "raw"
        raise InputError(
            f"{folder} does not hold Fashion-MNIST: expected {', '.join(IDX_SHA256)}, each plain or as .gz"
        )
    cached = cache_folder() / "FashionMNIST" / "raw"
    if _complete(cached):
        return cached
    problem = _download(cache_folder())
    if _complete(cached):
        return cached
    if _complete(DEBIAN_FOLDER):
        return DEBIAN_FOLDER
    raise MissingError(
        f"Fashion-MNIST cannot be had: the download failed ({problem}). Do one of these three:\n"
        "  1. --data DIR with the four IDX files (*-ubyte or *-ubyte.gz) in DIR;\n"
        f"  2. a network on which torchvision can download into {cache_folder()};\n"
        "  3. on Debian or Ubuntu: apt-get install dataset-fashion-mnist"
    )


def _complete(folder: Path) -> bool:
    return all(_find(folder, name) is not None for name in IDX_SHA256)


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _download(root: Path) -> str:
    """Let torchvision download into `root`; the reason where it could not."""
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        return str(error).strip().splitlines()[-1]
    return "incomplete"


def _images(folder: Path, part: str) -> Tensor:
    pixels = _idx(folder, f"{part}-images-idx3-ubyte", header_bytes=16)
    return torch.from_numpy(pixels.reshape(-1, 1, 28, 28))


def _labels(folder: Path, part: str) -> Tensor:
    return torch.from_numpy(_idx(folder, f"{part}-labels-idx1-ubyte", header_bytes=8)).long()


def _idx(folder: Path, name: str, *, header_bytes: int) -> NDArray[np.uint8]:
    """The payload of an IDX file whose content is known to the byte."""
    path = _find(folder, name)
    assert path is not None
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}; remove it and fetch it again") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != IDX_SHA256[name]:
        raise InputError(
            f"{path} is not the original: expected SHA-256 {IDX_SHA256[name]} of the decompressed file, "
            f"got {digest}; remove it and fetch it again"
        )
    return np.frombuffer(bytearray(content), np.uint8, offset=header_bytes)
