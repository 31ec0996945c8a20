"""A user's own images as tensors: `split/class/file`, in a folder or in zips."""

import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.datasets import ImageFolder

from purify_toolkit.data import ImageData, Split
from purify_toolkit.errors import InputError, reason

VALIDATION_NAMES = ("validation", "valid", "val")
ORDER_SEED = 0
LAYOUT = "expected SPLIT/CLASS/FILE, the splits being train, test and perhaps validation, in a folder or in zips"


def is_image_folder(source: Path) -> bool:
    """Whether `source` is a zip, a folder of zips, or a folder with a folder `train`."""
    if source.is_dir():
        return (source / "train").is_dir() or any(source.glob("*.zip"))
    return source.suffix == ".zip" and source.is_file()


def load_image_folder(
    source: Path, *, validation_size: int, channels: int | None = None, image_size: tuple[int, int] | None = None
) -> ImageData:
    """Images `SPLIT/CLASS/FILE` of a folder, a zip, or a folder of zips.

    The classes are the sorted names of the folders in `train`. The tensors are `[N, channels, H, W]`. As on the
    device, transparency is laid over black and the camera's orientation applied. Each split is in a random order,
    always the same, so that its first images are a fair sample. Without a split `validation`, that part is taken
    from `train`.

    Args:
        source: the folder or zip.
        validation_size: images to take from `train` where there is no split `validation`.
        channels: 1 for grey, 3 for colour; None for 1 where every image is grey, else 3.
        image_size: height and width to resize every image to, bilinear; without it all must have one size.

    Raises:
        InputError: not such a folder; a class that `train` lacks; an image that cannot be read or is of another
            size; too few images for the validation part.
    """
    with ExitStack() as stack:
        folder = source
        if not (source / "train").is_dir():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="purify-images-")))
            _extract(source, folder)
        reader = _Reader(folder, channels, image_size)
        train, test = reader.split("train"), reader.split("test")
        folder_name = next((name for name in VALIDATION_NAMES if (folder / name).is_dir()), None)
        validation = reader.split(folder_name) if folder_name else None
    if validation is None:
        if not 0 < validation_size < len(train):
            raise InputError(f"validation_size must be between 1 and {len(train) - 1}, got {validation_size}")
        train, validation = train[:-validation_size], train[-validation_size:]
    parts = (train, validation, test)
    if not reader.coloured:
        train, validation, test = (Split(part.images[:, :1].contiguous(), part.labels) for part in parts)
    name = source.resolve().stem.encode(errors="backslashreplace").decode()
    return ImageData(name, reader.classes, train, validation, test)


def _extract(source: Path, target: Path) -> None:
    archives = [source] if source.is_file() else sorted(source.glob("*.zip"))
    if not archives:
        raise InputError(f"{source} holds neither a folder 'train' nor a zip; {LAYOUT}")
    for path in archives:
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(target)
        except OSError:
            raise
        except Exception as error:  # damaged in one of many ways, encrypted, packed by an odd method
            raise InputError(f"{path} cannot be unpacked ({reason(error)}); {LAYOUT}") from error


class _Reader:
    """Reads splits one after another, `train` first; they must fit each other."""

    def __init__(self, folder: Path, channels: int | None, image_size: tuple[int, int] | None) -> None:
        self._folder, self._size, self._resize = folder, image_size, image_size is not None
        self.classes: tuple[str, ...] = ()
        self._channels, self.coloured = channels, channels == 3

    def split(self, name: str) -> Split:
        """The images of a split as RGB; the three channels of grey images are the same."""
        try:
            found = ImageFolder(str(self._folder / name), loader=self._load)
        except FileNotFoundError as error:
            raise InputError(f"the split {name!r}: {reason(error)}; {LAYOUT}") from error
        self.classes = self.classes or tuple(found.classes)
        unknown = sorted(set(found.classes) - set(self.classes))
        if unknown or len(self.classes) < 2:
            problem = f"the class {unknown[0]!r} is not in 'train'" if unknown else "there is one class only"
            raise InputError(f"the split {name!r}: {problem}; {LAYOUT}")
        for label in found.classes:
            try:
                label.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"the split {name!r}: the folder {label!r} is not named in UTF-8; rename it"
                ) from error
        position = [self.classes.index(label) for label in found.classes]
        images = torch.from_numpy(np.stack([image for image, _ in found])).permute(0, 3, 1, 2)
        labels = torch.tensor([position[target] for target in found.targets])
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(ORDER_SEED))
        return Split(images[order].contiguous(), labels[order])

    def _load(self, path: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        name = Path(path).relative_to(self._folder)
        try:
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file)
                if image.mode.startswith(("I", "F")):
                    raise InputError(f"{name} has more than 8 bits a channel; convert it to 8 bits first")
                self.coloured |= self._channels is None and image.mode not in ("1", "L", "LA")
                if image.has_transparency_data:
                    image = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
                pixels = (image.convert("L") if self._channels == 1 else image).convert("RGB")
        except InputError:
            raise
        except Exception as error:  # decoders raise almost anything at a damaged file
            raise InputError(f"{name} cannot be read as an image ({reason(error)}); remove it") from error
        self._size = self._size or (pixels.height, pixels.width)
        if (pixels.height, pixels.width) != self._size:
            if not self._resize:
                raise InputError(
                    f"{name} is {pixels.height} x {pixels.width}, others are {self._size[0]} x {self._size[1]}; "
                    "image_size = [HEIGHT, WIDTH] in the recipe resizes them all"
                )
            pixels = pixels.resize((self._size[1], self._size[0]), Image.Resampling.BILINEAR)
        return np.asarray(pixels)
