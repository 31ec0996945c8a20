"""How a picture of any size becomes the input of a contract."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from purify_edge.bundle.manifest import InputContract, Preprocessing
from purify_edge.images import fitting
from purify_edge.images.fitting import fitted

SIDES = [(97, 61), (40, 130), (1, 90), (3, 2), (64, 48)]


def noise(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def contract(**how: Any) -> InputContract:
    return InputContract(channels=3, height=48, width=64, preprocessing=Preprocessing(**how))


@pytest.mark.parametrize("size", SIDES)
def test_without_a_word_a_picture_is_stretched(size: tuple[int, int]) -> None:
    expected = np.asarray(noise(size).resize((64, 48), Image.Resampling.BILINEAR))
    assert np.array_equal(fitted(noise(size), contract()), expected)


@pytest.mark.parametrize("size", SIDES)
def test_without_antialiasing_pixels_are_those_of_opencv(size: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    picture = noise(size)
    expected = cv2.resize(np.asarray(picture), (64, 48), interpolation=cv2.INTER_LINEAR).astype(int)
    assert np.abs(fitted(picture, contract(antialias=False)) - expected).max() <= 1


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", SIDES)
def test_of_a_picture_that_would_be_scaled_to_a_giant_only_the_middle_is_made(
    size: tuple[int, int], antialias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = contract(resize="shortest", scaled=(60, 77), antialias=antialias)
    expected = fitted(noise(size), how).astype(int)
    monkeypatch.setattr(fitting, "MAX_SCALED", 1)
    assert np.abs(fitted(noise(size), how) - expected).max() <= 2  # of noise; both directions round


def test_a_line_of_pixels_needs_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    resize = Image.Image.resize

    def spy(image: Image.Image, size: tuple[int, int], *arguments: Any, **options: Any) -> Image.Image:
        assert size[0] * size[1] <= fitting.MAX_SCALED
        return resize(image, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", spy)
    line = Image.new("RGB", (1, 500_000), (10, 20, 30))
    assert (fitted(line, contract(resize="shortest")) == (10, 20, 30)).all()
    filled = fitted(line, contract(resize="letterbox", fill=(1, 2, 3)))
    assert (filled[:, 31] == (10, 20, 30)).all()
    assert (np.delete(filled, 31, axis=1) == (1, 2, 3)).all()


@pytest.mark.parametrize("size", SIDES)
def test_a_letterbox_shows_the_whole_picture(size: tuple[int, int]) -> None:
    white = fitted(Image.new("RGB", size, "white"), contract(resize="letterbox", rounding="nearest")) == 255
    rows, columns = white.all(axis=2).any(axis=1).sum(), white.all(axis=2).any(axis=0).sum()
    assert rows == 48 or columns == 64
    assert rows == max(1, round(size[1] * columns / size[0])) or columns == max(1, round(size[0] * rows / size[1]))


def test_grey_is_filled_with_grey() -> None:
    grey = InputContract(
        channels=1, height=10, width=20, preprocessing=Preprocessing(resize="letterbox", fill=(9, 9, 9))
    )
    assert set(fitted(Image.new("RGB", (5, 5), "white"), grey).flatten()) == {9, 255}


def test_a_picture_of_the_very_size_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = noise((64, 48))
    monkeypatch.delattr(Image.Image, "resize")
    for resize in ("stretch", "shortest", "letterbox"):
        assert np.array_equal(fitted(picture, contract(resize=resize)), np.asarray(picture))


def test_another_size_keeps_the_share_that_is_cut_off() -> None:
    how = Preprocessing(resize="shortest", scaled=(256, 256))
    assert how.for_size((224, 224), (112, 56)) == Preprocessing(resize="shortest", scaled=(128, 64))
    assert how.for_size((224, 224), (224, 224)) is how
    assert Preprocessing().for_size((1, 1), (2, 2)) == Preprocessing()


def test_what_is_not_known_without_antialiasing_is_refused() -> None:
    with pytest.raises(ValueError, match="bicubic without antialiasing is not known"):
        Preprocessing(interpolation="bicubic", antialias=False)


def test_a_way_is_told_in_words() -> None:
    told = contract(resize="shortest", scaled=(55, 73), interpolation="bicubic").way
    assert told == "scaled to cover 55 x 73, centre 48 x 64, bicubic"
    told = contract(resize="letterbox", antialias=False, fill=(1, 2, 3)).way
    assert told == "scaled to fit into 48 x 64, filled with 1 2 3, bilinear without antialiasing"
