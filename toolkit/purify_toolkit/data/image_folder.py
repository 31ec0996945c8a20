"""A user's own images as tensors: `split/class/file`, in a folder or in zips."""

import logging
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from purify_edge.bundle.manifest import InputContract, Preprocessing
from purify_edge.errors import InputError, reason
from purify_edge.images.decoding import IMAGE_SUFFIXES, decode
from purify_edge.images.fitting import fitted
from purify_edge.images.walking import PassedOver, images_below, is_hidden, place_in_zip, takes_from_zip
from purify_toolkit.data.splits import ImageData, Split, hold_out

logger = logging.getLogger("purify_edge")

VALIDATION_NAMES = ("validation", "valid", "val")
SPLITS = ("train", "test", *VALIDATION_NAMES)
ORDER_SEED = 0
LAYOUT = "expected SPLIT/CLASS/FILE, the splits being train, test and perhaps validation, in a folder or in zips"

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


def _composed(name: str) -> str:
    """Return a name with each accent in the letter's own character: some systems keep them apart, in files and zips."""
    return unicodedata.normalize("NFC", name)


def load_image_folder(
    source: Path,
    *,
    validation_size: int,
    channels: int | None = None,
    image_size: tuple[int, int] | None = None,
    labels: Mapping[str, int] | None = None,
    preprocessing: Preprocessing | None = None,
) -> ImageData:
    """Load the images `SPLIT/CLASS/FILE` of a folder, a zip, or a folder of zips.

    The tensors are `[N, channels, H, W]`, of the pixels that the device makes of the files, see
    `purify_edge.images.decoding`. Each split is in a random order, always the same, so that its first images are a fair
    sample. Without a split `validation`, that part is taken from `train`. Zips are read where they lie; nothing
    is unpacked.

    Args:
        source: the folder or zip.
        validation_size: images to take from `train` where there is no split `validation`; a fifth of them in a folder
            so small that it would be more than half.
        channels: 1 for grey, 3 for colour; None for 1 where every image is grey, else 3.
        image_size: height and width to bring every image to; without it all must have one size.
        labels: the label of each folder that may be in `train`, where every label must occur, some perhaps under
            one of several names; without it the classes are the names of the folders, see `in_order`.
        preprocessing: how images are brought to their size; None to stretch them.

    Raises:
        InputError: not such a folder; classes other than in `labels`; a class that `train` lacks; an image that
            cannot be read or is of another size; too few images for the validation part.
    """
    with ExitStack() as stack:
        files = _Folder(source) if (source / "train").is_dir() else _Zips(source, stack)
        reader = _Reader(files, channels, image_size, labels, preprocessing or Preprocessing())
        train, test = reader.split("train"), reader.split("test")
        own = next((name for name in VALIDATION_NAMES if files.has(name)), None)
        validation = reader.split(own) if own else None
    if validation is None:
        is_small = labels is None and 2 * validation_size > len(train)
        train, validation = hold_out(train, len(train) // 5 if is_small else validation_size)
    parts = (train, validation, test)
    if not reader.coloured:
        train, validation, test = (Split(part.images[:, :1].contiguous(), part.labels) for part in parts)
    name = source.resolve().stem.encode(errors="backslashreplace").decode()
    return ImageData(name, reader.classes, train, validation, test)


class _Folder:
    """The images of a folder by their path in it, `SPLIT/CLASS/.../FILE`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __str__(self) -> str:
        return str(self._folder)

    def has(self, split: str) -> bool:
        return (self._folder / split).is_dir()

    def classes(self, split: str) -> list[str]:
        entries = sorted((self._folder / split).iterdir())
        return [entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name)]

    def images(self, split: str, passed: PassedOver) -> list[str]:
        found = []
        for path in images_below(str(self._folder / split), passed):
            if isinstance(path, InputError):
                raise path
            found.append(Path(path).relative_to(self._folder).as_posix())
        return found

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()


class _Zips:
    """The images of a zip or of a folder of zips, by the paths inside; where two zips have one, the later is taken.

    Where a zip has all it holds in one folder, as the archives of a repository do, paths begin below that.
    """

    def __init__(self, source: Path, stack: ExitStack) -> None:
        archives = [source] if source.is_file() else sorted(source.glob("*.zip"))
        if not archives:
            raise InputError(f"{source} holds neither a folder 'train' nor a zip; {LAYOUT}")
        self._files: dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]] = {}
        self._folders: set[PurePosixPath] = set()
        self._source = source
        self._passed: dict[str, PassedOver] = {}
        for path in archives:
            try:
                self._add(stack.enter_context(zipfile.ZipFile(path)))
            except zipfile.BadZipFile as error:
                raise InputError(f"{path} cannot be unpacked ({reason(error)}); {LAYOUT}") from error

    def _add(self, archive: zipfile.ZipFile) -> None:
        inside = [(place_in_zip(member), member) for member in archive.infolist()]
        seen = [(place, member) for place, member in inside if place.parts and not any(map(is_hidden, place.parts))]
        tops = {place.parts[0] for place, _ in seen}
        depth = 1 if len(tops) == 1 and not tops <= {*SPLITS} else 0
        for place, member in inside:
            split = "".join(place.parts[depth : depth + 1])
            below = PurePosixPath(*place.parts[depth:])
            if takes_from_zip(place, member, self._passed.setdefault(split, PassedOver())):
                self._files[str(below)] = archive, member
        for place, member in seen:
            parts = place.parts[depth:] if member.is_dir() else place.parts[depth:-1]
            self._folders |= {PurePosixPath(*parts[: count + 1]) for count in range(len(parts))}

    def __str__(self) -> str:
        return str(self._source)

    def has(self, split: str) -> bool:
        return PurePosixPath(split) in self._folders

    def classes(self, split: str) -> list[str]:
        return sorted(folder.name for folder in self._folders if str(folder.parent) == split)

    def images(self, split: str, passed: PassedOver) -> list[str]:
        passed.add(self._passed.get(split, PassedOver()))
        return [name for name in self._files if name.startswith(f"{split}/")]

    def read(self, name: str) -> bytes:
        archive, info = self._files[name]
        try:
            return archive.read(info)
        except Exception as error:  # damaged in one of many ways, encrypted, packed by an odd method
            raise InputError(f"{name} cannot be unpacked from {archive.filename} ({reason(error)})") from error


class _Reader:
    """Reads splits one after another, `train` first; they must fit each other."""

    def __init__(
        self,
        files: _Folder | _Zips,
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

    def split(self, name: str) -> Split:
        """Return the images of a split; without `channels` as RGB, where a grey image has three channels alike."""
        found = self._listed(name)
        if name == "train":
            self._settle_labels(in_order(found))
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

    def _listed(self, name: str) -> dict[str, list[str]]:
        """Return the images of each class's folder, in the order of their folders and names."""
        if not self._files.has(name):
            raise InputError(f"the split {name!r}: {self._files} has none; {LAYOUT}")
        passed = PassedOver()
        found: dict[str, list[str]] = {_composed(folder): [] for folder in self._files.classes(name)}
        for path in sorted(self._files.images(name, passed), key=lambda path: path.rpartition("/")[::2]):
            folder, slash, _ = path.removeprefix(f"{name}/").partition("/")
            if slash:
                found.setdefault(_composed(folder), []).append(path)
            else:
                passed.others["in no class's folder"] += 1
        if passed:
            logger.info("%s of %s: passed over %s", name, self._files, passed)
        empty = sorted(folder for folder, images in found.items() if not images)
        if empty or not found:
            problem = (
                f"no image ({', '.join(sorted(IMAGE_SUFFIXES))}) of the class {empty[0]!r}" if empty else "no class"
            )
            raise InputError(f"the split {name!r}: there is {problem}; {LAYOUT}")
        return found

    def _settle_labels(self, folders: list[str]) -> None:
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
                f"the split 'train' has other classes than {_few(self.classes)}: "
                f"missing are {_few(missing)}; not expected are {_few(unknown)}"
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


def _few(names: Iterable[str]) -> str:
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:5]) + (f" and {len(quoted) - 5} more" if len(quoted) > 5 else "") or "none"
