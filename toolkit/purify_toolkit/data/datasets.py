"""The datasets a recipe can name: found in a folder, in torchvision's cache, or downloaded by torchvision."""

import contextlib
import sys
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path

import torchvision.datasets

from purify_edge.bundle.manifest import Preprocessing
from purify_edge.errors import InputError, MissingError, reason
from purify_toolkit.data.class_names import CIFAR10, CIFAR100, DIGITS, GTSRB
from purify_toolkit.data.folders.trees import LAYOUT
from purify_toolkit.data.gtsrb import FOLDERS, Gtsrb
from purify_toolkit.data.idx import Idx
from purify_toolkit.data.image_folder import is_image_folder, load_image_folder
from purify_toolkit.data.known_datasets import SPLITS, ChecksummedDataset, KnownDataset
from purify_toolkit.data.splits import ImageData, cache_folder

IMAGE_FOLDER = "image-folder"
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
FASHION = tuple(torchvision.datasets.FashionMNIST.classes)

DATASETS: dict[str, KnownDataset] = {
    "mnist": Idx("MNIST", "MNIST", GREY, DIGITS, "MNIST/raw"),
    "fashion-mnist": Idx("Fashion-MNIST", "FashionMNIST", GREY, FASHION, "FashionMNIST/raw"),
    "cifar10": ChecksummedDataset("CIFAR-10", "CIFAR10", COLOUR, CIFAR10, "cifar-10-batches-py"),
    "cifar100": ChecksummedDataset("CIFAR-100", "CIFAR100", COLOUR, CIFAR100, "cifar-100-python"),
    "svhn": ChecksummedDataset("SVHN", "SVHN", COLOUR, DIGITS, "SVHN", SPLITS),
    "gtsrb": Gtsrb("GTSRB", "GTSRB", COLOUR, GTSRB, "gtsrb", SPLITS),
}
"""Every known dataset by its name in a recipe: title, torchvision's class, shape, classes, folder, parts."""

PACKAGES = {"fashion-mnist": (Path("/usr/share/datasets/fashion-mnist"), "apt-get install dataset-fashion-mnist")}
"""Packages of Debian by the dataset that they hold: their folder, and how to install them."""


def load_data(
    name: str,
    folder: Path | None,
    *,
    validation_size: int,
    channels: int | None = None,
    image_size: tuple[int, int] | None = None,
    preprocessing: Preprocessing | None = None,
    labels_file: Path | None = None,
    unlabelled: bool = False,
) -> ImageData:
    """Return the dataset called `name`: one of `DATASETS`, or `image-folder` for the user's own images.

    The files of a known dataset are taken from `folder`, else from torchvision's cache (`cache_folder()`), else
    downloaded into it by torchvision, else from Debian's package. In `folder` they may also lie as images
    `SPLIT/CLASS/FILE`, see `load_image_folder`; a class's folder has the class's name, `/` written as `_` (GTSRB:
    or the class's number, 00000 to 00042). No file is read that fails its check: SHA-256 for MNIST and Fashion-MNIST,
    torchvision's MD5 for CIFAR and SVHN; GTSRB's sums are checked by torchvision when it downloads the archives.

    Args:
        name: of the dataset.
        folder: holds the files; also a zip of images.
        validation_size: images of the training part to hold out, always the same; none is ever of the test part.
        channels: for an image folder; a known dataset has its own.
        image_size: for an image folder and GTSRB (32 x 32 without it), height and width to resize every image to.
        preprocessing: for an image folder, how; None to stretch it.
        labels_file, unlabelled: for an image folder, see `load_image_folder`.

    Raises:
        InputError: no such dataset; `folder` does not hold it, or a file in it is damaged; `channels` or
            `image_size` is not the dataset's.
        MissingError: no source has the data.
    """
    if name == IMAGE_FOLDER:
        if folder is None:
            raise InputError("the recipe is for your own images: --data names their folder or zip, SPLIT/CLASS/FILE")
        return load_image_folder(
            folder,
            validation_size=validation_size,
            channels=channels,
            image_size=image_size,
            preprocessing=preprocessing,
            labels_file=labels_file,
            unlabelled=unlabelled,
        )
    if labels_file or unlabelled:
        raise InputError(f"--labels and --unlabelled are for your own images (dataset {IMAGE_FOLDER}), not for {name}")
    source = _source(name, channels, image_size)
    found = _anywhere(name, source) if folder is None else source.find(folder)
    if found is not None:
        return ImageData(name, source.classes, *source.read(found, validation_size=validation_size))
    assert folder is not None
    data = _as_images(source, folder, validation_size)
    return replace(data, name=name, class_names=source.classes)


def _source(name: str, channels: int | None, image_size: tuple[int, int] | None) -> KnownDataset:
    if name not in DATASETS:
        raise InputError(f"no dataset {name!r}; known are {', '.join([*DATASETS, IMAGE_FOLDER])}")
    source = DATASETS[name]
    if isinstance(source, Gtsrb) and image_size:
        source = replace(source, shape=(source.shape[0], *image_size))
    for key, asked, own in (("channels", channels, source.shape[0]), ("image_size", image_size, source.shape[1:])):
        if asked not in (None, own):
            raise InputError(f"the {key} of {source.title} is {own}, got {asked}; leave it out of the recipe")
    return source


def _anywhere(name: str, source: KnownDataset) -> Path:
    """Return the cache, filled by torchvision where it is empty, or the folder of a package."""
    cache = cache_folder()
    if found := source.find(cache):
        return found
    problem = "it is incomplete"
    try:
        with contextlib.redirect_stdout(sys.stderr):  # some versions of torchvision print
            source.fetch(cache)
    except (OSError, RuntimeError, HTTPException) as error:
        problem = [reason(error), *str(error).strip().splitlines()][-1]
    package, command = PACKAGES.get(name, (None, ""))
    if found := source.find(cache) or (source.find(package) if package else None):
        return found
    ways = [
        f"--data DIR with {source.files} in DIR;",
        "--data DIR with the images SPLIT/CLASS/FILE in DIR, the splits being train and test, or in zips;",
        f"a network on which torchvision can download into {cache};",
        *([f"on Debian or Ubuntu: {command};"] if command else []),
    ]
    lines = "".join(f"\n  {number}. {way}" for number, way in enumerate(ways, 1))
    raise MissingError(f"{source.title} could not be downloaded ({problem}). Do one of these:{lines}")


def _as_images(source: KnownDataset, folder: Path, validation_size: int) -> ImageData:
    """Return the dataset from images `SPLIT/CLASS/FILE`."""
    if not is_image_folder(folder):
        raise InputError(f"{folder} does not hold {source.title}: expected {source.files}; or images, {LAYOUT}")
    channels, *size = source.shape
    resized = isinstance(source, Gtsrb)
    labels = {name.replace("/", "_"): label for label, name in enumerate(source.classes)}
    data = load_image_folder(
        folder,
        validation_size=validation_size,
        channels=channels,
        image_size=(size[0], size[1]) if resized else None,
        labels=labels | ({name: label for label, name in enumerate(FOLDERS)} if resized else {}),
    )
    found = list(data.train.images.shape[2:])
    if found != size:
        raise InputError(
            f"{folder}: the images are {found[0]} x {found[1]}, those of {source.title} are {size[0]} x {size[1]}"
        )
    return data
