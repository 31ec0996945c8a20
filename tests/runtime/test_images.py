import numpy as np
import pytest

from helpers.images import COLOUR, GREY
from purify_edge.errors import InputError
from purify_edge.images.arrays import as_batch, to_8bit


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
        (np.full((1, 1, 28, 28), 255.0), r"got 255\.0 to 255\.0; values up to 255 belong in a uint8"),
        (np.full((1, 1, 28, 28), 1.001), r"expected pixels in \[0, 1\]"),
        (np.full((1, 1, 28, 28), -0.001), r"expected pixels in \[0, 1\]"),
        (np.full((1, 1, 28, 28), np.nan), r"expected pixels in \[0, 1\], got 784 that are not finite"),
        (np.full((1, 1, 28, 28), 1.0000001), r"got 1\.0000001 to 1\.0000001; np\.clip"),
        (np.linspace(-2.1, 2.6, 784).reshape(1, 1, 28, 28), r"the classifier normalises itself: pass the pixels"),
        (np.stack([np.zeros((1, 28, 28)), np.full((1, 28, 28), np.inf)]), "image 1: .* 784 that are not finite"),
    ],
)
def test_bad_arrays_are_refused_with_what_came(images: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_batch(images, GREY)


def test_one_nan_among_good_pixels_is_found() -> None:
    images = np.full((4, 1, 28, 28), 0.5, np.float32)
    images[2, 0, 3, 3] = np.nan
    with pytest.raises(InputError, match=r"image 2: .* 1 that are not finite"):
        as_batch(images, GREY)


def test_what_is_saved_is_what_the_model_gave() -> None:
    image = np.array([[[0.0, 1.0], [0.5, 0.25]]], np.float32)
    assert np.asarray(to_8bit(image)).tolist() == [[0, 255], [128, 64]]
    assert to_8bit(np.repeat(image, 3, axis=0)).mode == "RGB"
