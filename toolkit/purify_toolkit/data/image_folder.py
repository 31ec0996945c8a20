"""A user's own images as tensors: `split/class/file` and other layouts, in a folder or in zips."""

import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from purify_edge.bundle.manifest import InputContract, Preprocessing
from purify_edge.errors import InputError
from purify_edge.images.decoding import decode
from purify_edge.images.fitting import fitted
from purify_toolkit.data.folders.labels_file import few, listing_of
from purify_toolkit.data.folders.layout import NO_CLASS, Files, PartFiles, find_listing
from purify_toolkit.data.folders.trees import LAYOUT, Tree, open_tree
from purify_toolkit.data.splits import ImageData, Split, hold_out

logger = logging.getLogger("purify_edge")

ORDER_SEED = 0

Pixels: TypeAlias = NDArray[np.uint8]


def is_image_folder(source: Path) -> bool:
    """Return whether `source` is a zip, a folder of zips, or a folder with a folder `train`."""
    if source.is_dir():
        return (source / "train").is_dir() or any(source.glob("*.zip"))
    return source.suffix == ".zip" and source.is_file()


def in_order(folders: Iterable[str]) -> list[str]:
    """Return the names of classes in their order: as numbers where all are numbers, else as text.

    torchvision's ImageFolder orders numbers as text too.

    >>> in_order(["10", "9", "1"]), in_order(["10", "9", "b"])
    (['1', '9', '10'], ['10', '9', 'b'])
    """
    names = sorted(folders)
    return sorted(names, key=int) if all(name.isascii() and name.isdecimal() for name in names) else names


def load_image_folder(
    source: Path,
    *,
    validation_size: int,
    channels: int | None = None,
    image_size: tuple[int, int] | None = None,
    labels: Mapping[str, int] | None = None,
    preprocessing: Preprocessing | None = None,
    labels_file: Path | None = None,
    unlabelled: bool = False,
) -> ImageData:
    """Load the images of a folder, a zip, or a folder of zips, laid out as `SPLIT/CLASS/FILE` or `CLASS/FILE`.

    The tensors are `[N, channels, H, W]`, of the pixels that the device makes of the files, see
    `purify_edge.images.decoding`. Each split is in a random order, always the same, so that its first images are a fair
    sample. Without a split `test`, the split `validation` is the test part; without a split `validation`, that part is
    taken from `train`; without splits, all three are made. A line of the log says what was found. Zips are read where
    they lie; nothing is unpacked.

    Args:
        source: the folder or zip.
        validation_size: images to take from `train` where there is no split `validation`; a fifth of them in a folder
            so small that it would be more than half.
        channels: 1 for grey, 3 for colour; None for 1 where every image is grey, else 3.
        image_size: height and width to bring every image to; without it all must have one size.
        labels: the label of each folder that may be in `train`, where every label must occur, some perhaps under
            one of several names; without it the classes are the names of the folders, see `in_order`.
        preprocessing: how images are brought to their size; None to stretch them.
        labels_file: a table of the images and their classes, see `folders.labels_file`; without it folders are classes.
        unlabelled: whether to read images of any layout, all with the label 0, and without names of classes.

    Raises:
        InputError: not such a folder; classes other than in `labels`; a class that `train` lacks; an image that
            cannot be read or is of another size; too few images for the validation part.
    """
    with ExitStack() as stack:
        tree = open_tree(source, stack)
        listing = listing_of(labels_file, tree) if labels_file else find_listing(tree, unlabelled=unlabelled)
        settled = {NO_CLASS: 0} if unlabelled else labels
        reader = _Reader(tree, channels, image_size, settled, preprocessing or Preprocessing())
        if not unlabelled:
            reader.settle_labels(in_order(listing.parts["train"]))
        found = {part: reader.split(part, files) for part, files in listing.parts.items()}
    train, validation, test = found["train"], found.get("validation"), found["test"]
    if validation is None:
        is_small = labels is None and 2 * validation_size > len(train)
        train, validation = hold_out(train, len(train) // 5 if is_small else validation_size)
    if not reader.coloured:
        train, validation, test = (
            Split(part.images[:, :1].contiguous(), part.labels) for part in (train, validation, test)
        )
    name = source.resolve().stem.encode(errors="backslashreplace").decode()
    classes = () if unlabelled else reader.classes
    data = ImageData(name, classes, train, validation, test, listing.own_validation, unlabelled)
    logger.info("%s", _read_line(source, tree, data, listing))
    return data


def _read_line(source: Path, tree: Tree, data: ImageData, listing: PartFiles) -> str:
    """Return what was read, from which layout, and what was not."""
    parts = (data.train, data.validation, data.test)
    channels, height, width = data.train.images.shape[1:]
    classes = f"{len(data.class_names)} classes" if data.class_names else "no classes"
    skipped = listing.passed.others.total() + listing.passed.hidden
    why = f" ({listing.passed})" if skipped else ""
    made = "" if listing.own_validation or "validation" in listing.parts else " (from train)"
    return (
        f"read {sum(map(len, parts)):,} images, {classes}, {height}x{width}x{channels}, skipped {skipped:,}{why}; "
        f"{tree.kind} {source}: {listing.layout}; {len(data.train):,} to train on, {len(data.validation):,} for "
        f"validation{made}, {len(data.test):,} to test"
    )


class _Reader:
    """Reads splits one after another, `train` first; they must fit each other."""

    def __init__(
        self,
        files: Tree,
        channels: int | None,
        image_size: tuple[int, int] | None,
        labels: Mapping[str, int] | None,
        preprocessing: Preprocessing,
    ) -> None:
        self._preprocessing = preprocessing
        self._files, self._size, self._resize = files, image_size, image_size is not None
        self._labels, self._prescribed = dict(labels or {}), labels is not None
        self._channels, self._stored, self.coloured = channels, channels or 3, channels is not None

    @property
    def classes(self) -> tuple[str, ...]:
        """The first folder name of each label."""
        names = {label: name for name, label in reversed(self._labels.items())}
        return tuple(names[label] for label in sorted(names))

    def split(self, name: str, found: Files) -> Split:
        """Return the images of a split; without `channels` as RGB, where a grey image has three channels alike."""
        unknown = sorted(set(found) - set(self._labels))
        if unknown:
            raise InputError(f"the split {name!r}: the class {unknown[0]!r} is not in 'train'; {LAYOUT}")
        files = [(file, self._labels[folder]) for folder in sorted(found) for file in found[folder]]
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(ORDER_SEED))
        images: Pixels | None = None
        for place, (file, _) in zip(order.argsort().tolist(), files, strict=True):
            pixels = self._load(file)
            if images is None:
                images = np.empty((len(files), self._stored, *pixels.shape[:2]), np.uint8)
            images[place] = pixels.transpose(2, 0, 1)
        assert images is not None
        return Split(torch.from_numpy(images), torch.tensor([label for _, label in files])[order])

    def settle_labels(self, folders: list[str]) -> None:
        """Give each folder in `train` a label, or check them where labels are prescribed."""
        for folder in folders:
            try:
                folder.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"the split 'train': the folder {folder!r} is not named in UTF-8; rename it"
                ) from error
        if not self._prescribed:
            self._labels = {folder: label for label, folder in enumerate(folders)}
        there = {self._labels[folder] for folder in folders if folder in self._labels}
        unknown = [folder for folder in folders if folder not in self._labels]
        missing = [name for label, name in enumerate(self.classes) if label not in there]
        if unknown or missing:
            raise InputError(
                f"the split 'train' has other classes than {few(self.classes)}: "
                f"missing are {few(missing)}; not expected are {few(unknown)}"
            )
        if len(self.classes) < 2:
            raise InputError(f"the split 'train': there is one class only; {LAYOUT}")

    def _load(self, name: str) -> Pixels:
        """Return an image as uint8 `[H, W, 3]`, or `[H, W, 1]` where all are to be grey."""
        coloured, pixels = decode(self._files.read(name), partial(self._converted, name), source=name)
        self.coloured |= coloured and self._channels is None
        return pixels

    def _converted(self, name: str, image: Image.Image) -> tuple[bool, Pixels]:
        """Return whether an image has colours, and its pixels at the size of all."""
        size = (image.height, image.width)
        self._size = self._size or size
        if size != self._size and not self._resize:
            raise InputError(
                f"{name} is {size[0]} x {size[1]}, others are {self._size[0]} x {self._size[1]}; "
                "--size HEIGHTxWIDTH, or image_size = [HEIGHT, WIDTH] in an image folder's recipe, resizes them all"
            )
        height, width = self._size
        contract = InputContract(channels=self._stored, height=height, width=width, preprocessing=self._preprocessing)
        return image.mode == "RGB", fitted(image, contract)
