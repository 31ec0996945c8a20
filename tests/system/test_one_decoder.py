"""Training and device make the same pixels of the same file, whatever its format and mode."""

import importlib
import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, features

from helpers.images import zipped
from purify_edge.bundle.manifest import InputContract
from purify_edge.images.decoding import IMAGE_SUFFIXES
from purify_edge.images.sources import open_source
from purify_toolkit.data.image_folder import load_image_folder
from purify_toolkit.data.splits import Split

HEIGHT, WIDTH = 12, 10
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
GREY, COLOUR, ALPHA = Image.fromarray(NOISE[..., 0]), Image.fromarray(NOISE[..., :3]), Image.fromarray(NOISE)
DEEP = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 256 + NOISE[..., 1])
PALETTE = COLOUR.convert("P", palette=Image.Palette.ADAPTIVE)
EXIF = Image.Exif()
EXIF[0x0112] = 6  # a quarter to the right
TURNED = EXIF.tobytes()

GREY_FILES = {
    "1-bit.png": (GREY.convert("1"), {}),
    "1-bit.pbm": (GREY.convert("1"), {}),
    "16-bit.png": (DEEP, {}),
    "16-bit.tif": (DEEP, {}),
    "grey.bmp": (GREY, {}),
    "grey.pgm": (GREY, {}),
    "grey-alpha.png": (Image.merge("LA", ALPHA.split()[2:]), {}),
    "grey-one-transparent.png": (GREY, {"transparency": int(NOISE[0, 0, 0])}),
    "grey-turned.tiff": (GREY.transpose(Image.Transpose.ROTATE_90), {"exif": TURNED}),
}
COLOUR_FILES = {
    "alpha.png": (ALPHA, {}),
    "alpha.webp": (ALPHA, {"lossless": True, "exact": True}),
    "animation.gif": (PALETTE, {"save_all": True, "append_images": [GREY.convert("P")]}),
    "animation.apng": (COLOUR, {"format": "PNG", "save_all": True, "append_images": [COLOUR.rotate(180)]}),
    "cmyk.jpg": (COLOUR.convert("CMYK"), {}),
    "cmyk.tiff": (COLOUR.convert("CMYK"), {}),
    "lab.tif": (Image.frombytes("LAB", COLOUR.size, COLOUR.tobytes()), {}),
    "one-transparent.png": (COLOUR, {"transparency": tuple(NOISE[0, 0, :3].tolist())}),
    "pages.tif": (COLOUR, {"save_all": True, "append_images": [COLOUR.rotate(180)]}),
    "palette.png": (PALETTE, {}),
    "palette-transparent.png": (PALETTE, {"transparency": bytes(range(256))}),
    "palette-transparent.gif": (PALETTE, {"transparency": 3}),
    "plain.jfif": (COLOUR, {"format": "JPEG"}),
    "plain.PPM": (COLOUR, {}),
    "turned.jpeg": (COLOUR.transpose(Image.Transpose.ROTATE_90), {"exif": TURNED}),
    "turned.png": (COLOUR.transpose(Image.Transpose.ROTATE_90), {"exif": TURNED}),
    "ycbcr.jpe": (COLOUR.convert("YCbCr"), {"format": "JPEG"}),
}
if features.check("avif"):
    COLOUR_FILES |= {"alpha.avif": (ALPHA, {}), "pages.avif": (COLOUR, {"save_all": True, "append_images": [PALETTE]})}
    GREY_FILES |= {"grey.avif": (GREY, {})}
with suppress(ImportError):
    importlib.import_module("pillow_heif").register_heif_opener()
    COLOUR_FILES |= {
        "alpha.heic": (ALPHA, {}),
        "turned.HEIF": (COLOUR.transpose(Image.Transpose.ROTATE_90), {"exif": TURNED}),
    }
    GREY_FILES |= {"grey.heic": (GREY, {})}
FILES = GREY_FILES | COLOUR_FILES


def write(folder: Path, names: list[str]) -> Path:
    """Every file in both splits and both classes."""
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            place = folder / split / label
            place.mkdir(parents=True)
            for name in names:
                image, options = FILES[name]
                image.save(place / name, **options)
            (place / "._macos.png").write_bytes(b"no image")
    return folder


def on_the_device(source: Path, contract: InputContract) -> list[NDArray[np.uint8]]:
    """The images of the split `test`, `[C, H, W]`, in the order of classes and names."""
    (opened,) = open_source(str(source))
    items = sorted(opened.items(), key=lambda item: (Path(item.file).parent.name, Path(item.file).name))
    return [item.read(contract).transpose(2, 0, 1) for item in items if Path(item.file).parts[-3] == "test"]


def in_order(split: Split, count: int) -> list[NDArray[np.uint8]]:
    """The images of a split in the order of classes and names: training shuffles them, always alike."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return list(split.images[order.argsort()].numpy())


@pytest.mark.parametrize("layout", ["folder", "zip"])
@pytest.mark.parametrize("size", [None, (8, 7), (17, 31)])
@pytest.mark.parametrize("channels", [1, 3])
def test_training_and_device_read_the_same_bytes(
    tmp_path: Path, layout: str, size: tuple[int, int] | None, channels: int
) -> None:
    source = write(tmp_path / "photos", sorted(FILES))
    source = source if layout == "folder" else zipped(source, tmp_path / "photos.zip")
    height, width = size or (HEIGHT, WIDTH)
    expected = on_the_device(source, InputContract(channels=channels, height=height, width=width))
    found = load_image_folder(source, validation_size=4, channels=channels, image_size=size).test
    assert len(found) == len(expected) == 2 * len(FILES)
    for name, image, reference in zip(2 * sorted(FILES), in_order(found, len(found)), expected, strict=True):
        assert np.array_equal(image, reference), name


def test_files_without_colour_make_one_channel(tmp_path: Path) -> None:
    grey = load_image_folder(write(tmp_path / "grey", sorted(GREY_FILES)), validation_size=4)
    assert grey.train.images.shape[1:] == (1, HEIGHT, WIDTH)
    expected = on_the_device(tmp_path / "grey", InputContract(channels=1, height=HEIGHT, width=WIDTH))
    assert all(map(np.array_equal, in_order(grey.test, len(grey.test)), expected))


@pytest.mark.parametrize("name", sorted(COLOUR_FILES))
def test_one_file_with_colour_makes_three_channels(tmp_path: Path, name: str) -> None:
    data = load_image_folder(write(tmp_path / "mixed", ["grey.bmp", name]), validation_size=2)
    assert data.train.images.shape[1:] == (3, HEIGHT, WIDTH)


def test_the_odd_files_are_what_they_are_called(tmp_path: Path) -> None:
    """An encoder that writes another mode would leave its decoder untried."""
    modes = {}
    for name, (image, options) in FILES.items():
        assert Path(name).suffix.lower() in IMAGE_SUFFIXES
        buffer = io.BytesIO()
        image.save(buffer, **({"format": Image.registered_extensions()[Path(name).suffix.lower()]} | options))
        modes[name] = Image.open(buffer).mode
    assert {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16"} <= set(modes.values())
