from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.images import COLOUR, GREY
from purify_runtime.errors import InputError
from purify_runtime.image_files import read_image
from purify_runtime.images import as_batch, to_8bit
from purify_runtime.manifest import InputContract


def test_8bit_images_become_floats_of_the_models_layout() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    batch = as_batch(images, COLOUR)
    assert batch.shape == (3, 3, 28, 28)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    assert batch[1, 2, 5, 7] == np.float32(images[1, 5, 7, 2]) / np.float32(255)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_images_keep_their_values(dtype: type) -> None:
    images = np.linspace(0, 1, 2 * 784).reshape(2, 1, 28, 28).astype(dtype)
    assert np.array_equal(as_batch(images, GREY), images.astype(np.float32))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((28, 28), np.float32), r"expected float \[N, C, H, W\] of shape .*got \(28, 28\)"),
        (np.zeros((1, 28, 28), np.float32), r"got \(1, 28, 28\)"),
        (np.zeros((2, 3, 28, 28), np.float32), r"got \(2, 3, 28, 28\)"),
        (np.zeros((2, 1, 28, 29), np.float32), r"got \(2, 1, 28, 29\)"),
        (np.zeros((2, 28, 28, 1), np.float32), r"got \(2, 28, 28, 1\)"),
        (np.zeros((2, 1, 28, 28), np.uint8), r"expected uint8 \[N, H, W, C\] of shape .*got \(2, 1, 28, 28\)"),
        (np.zeros((0, 28, 28, 1), np.uint8), "N >= 1, got"),
        (np.zeros((0, 1, 28, 28), np.float32), "N >= 1, got"),
        (np.zeros((1, 1, 28, 28), np.int64), "got dtype int64"),
        (np.zeros((1, 1, 28, 28), bool), "got dtype bool"),
        (np.zeros((1, 1, 28, 28), complex), "got dtype complex128"),
        (np.array([["a"]]), "got dtype <U1"),
        ([[0.5]], "expected a numpy array of images, got list"),
        (None, "got NoneType"),
        (np.full((1, 1, 28, 28), 255.0), r"got \[255, 255\]; values up to 255 belong in a uint8"),
        (np.full((1, 1, 28, 28), 1.001), r"expected pixels in \[0, 1\]"),
        (np.full((1, 1, 28, 28), -0.001), r"expected pixels in \[0, 1\]"),
        (np.full((1, 1, 28, 28), np.nan), r"expected pixels in \[0, 1\], got \[nan, nan\]"),
        (np.full((1, 1, 28, 28), np.inf), r"got \[inf, inf\]"),
    ],
)
def test_bad_arrays_are_refused_with_what_came(images: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_batch(images, GREY)


def test_one_nan_among_good_pixels_is_found() -> None:
    images = np.full((4, 1, 28, 28), 0.5, np.float32)
    images[2, 0, 3, 3] = np.nan
    with pytest.raises(InputError, match="nan"):
        as_batch(images, GREY)


GRADIENT = np.tile(np.arange(0, 252, 9, dtype=np.uint8), (28, 1))  # 28 x 28


def saved(image: Image.Image, folder: Path, name: str = "image.png", **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def test_a_grey_png_of_the_right_size_is_read_to_the_bit(tmp_path: Path) -> None:
    assert np.array_equal(read_image(saved(Image.fromarray(GRADIENT), tmp_path), GREY)[:, :, 0], GRADIENT)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("contract", [GREY, COLOUR])
def test_every_png_mode_is_read(tmp_path: Path, mode: str, contract: InputContract) -> None:
    sixteen_bits = Image.fromarray(GRADIENT.astype(np.uint16) * 257)
    image = sixteen_bits if mode == "I;16" else Image.fromarray(GRADIENT).convert(mode)
    pixels = read_image(saved(image, tmp_path), contract)
    assert pixels.shape == (28, 28, contract.channels)
    assert pixels.dtype == np.uint8
    if mode not in ("1", "P"):  # these two cannot hold the gradient's levels
        assert np.abs(pixels[:, :, 0].astype(int) - GRADIENT).max() <= 1


def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((28, 28), 0x8040, np.uint16))
    assert (read_image(saved(image, tmp_path), GREY) == 0x80).all()


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    pixels = np.full((28, 28, 4), 255, np.uint8)
    pixels[:, 14:, 3] = 0
    read = read_image(saved(Image.fromarray(pixels), tmp_path), GREY)[:, :, 0]
    assert (read[:, :14] == 255).all()
    assert (read[:, 14:] == 0).all()


def test_a_transparent_palette_colour_is_black(tmp_path: Path) -> None:
    image = Image.new("P", (28, 28), 1)
    image.putpalette([0, 0, 0, 255, 255, 255])
    assert (read_image(saved(image, tmp_path, transparency=1), GREY) == 0).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_jpeg_mode_is_read(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(GRADIENT).convert("RGB").convert(mode)
    pixels = read_image(saved(image, tmp_path, "image.jpg", quality=95), COLOUR)
    assert np.abs(pixels[:, :, 1].astype(int) - GRADIENT).max() <= 8


def test_the_orientation_in_exif_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    path = saved(Image.fromarray(GRADIENT), tmp_path, "image.jpg", exif=exif, quality=95)
    assert np.abs(read_image(path, GREY)[:, :, 0].astype(int) - GRADIENT[::-1, ::-1]).max() <= 8


@pytest.mark.parametrize("size", [(1, 1), (280, 56), (7, 300), (2000, 3000)])
def test_any_size_is_brought_to_the_contract(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = read_image(saved(Image.new("L", size, 77), tmp_path), GREY)
    assert pixels.shape == (28, 28, 1)
    assert (pixels == 77).all()


def test_shrinking_averages_instead_of_picking(tmp_path: Path) -> None:
    checkerboard = np.indices((280, 280)).sum(axis=0) % 2 * 255
    pixels = read_image(saved(Image.fromarray(checkerboard.astype(np.uint8)), tmp_path), GREY)
    assert 120 <= pixels.min() <= pixels.max() <= 135


def test_bad_files_are_refused_with_a_reason(bad_image: tuple[Path, str]) -> None:
    path, message = bad_image
    with pytest.raises(InputError, match=message) as caught:
        read_image(path, GREY)
    assert str(path) in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_image(tmp_path / "absent.png", GREY)
    with pytest.raises(InputError, match=r"cannot be read as an image \(.*[Dd]irectory"):
        read_image(tmp_path, GREY)


def test_what_is_saved_is_what_the_model_gave() -> None:
    image = np.array([[[0.0, 1.0], [0.5, 0.25]]], np.float32)
    assert np.asarray(to_8bit(image)).tolist() == [[0, 255], [128, 64]]
    assert to_8bit(np.repeat(image, 3, axis=0)).mode == "RGB"
