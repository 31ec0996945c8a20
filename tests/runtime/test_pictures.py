"""What programs hold of pictures becomes what files of them become."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from helpers.images import COLOUR, GREY
from purify_edge import InputError, Pipeline
from purify_edge.images.decoding import decode_image
from purify_edge.images.pictures import prepared


def photo(mode: str = "RGB", size: tuple[int, int] = (61, 45)) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("contract", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_pil_image_of_any_mode_becomes_what_its_file_becomes(mode: str, contract: Any) -> None:
    image = photo("RGBA").convert(mode) if mode != "I;16" else Image.fromarray(np.arange(4000, dtype=np.uint16) * 16)
    expected = decode_image(saved(image), contract, source="x.png")
    np.testing.assert_array_equal(prepared(image, contract), expected[None])


def test_a_pil_image_is_turned_as_its_file_and_stays_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(photo(), "JPEG", exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        (found,) = prepared(image, COLOUR)
        assert image.size == (61, 45)
    np.testing.assert_array_equal(found, decode_image(content, COLOUR, source="x.jpg"))


FRAME = np.asarray(photo())
EXPECTED = decode_image(saved(photo()), COLOUR, source="x.png")


@pytest.mark.parametrize(
    ("pictures", "bgr"),
    [
        (FRAME, False),
        (FRAME[:, :, ::-1], True),
        (np.dstack([FRAME, FRAME[:, :, :1]]), False),
        (np.dstack([FRAME[:, :, ::-1], FRAME[:, :, :1]]), True),
        (FRAME[None], False),
        ([FRAME], False),
        ((photo(),), False),
        (EXPECTED, False),
        (EXPECTED[None, :, :, ::-1], True),
    ],
)
def test_frames_become_what_files_of_them_become(pictures: Any, bgr: bool) -> None:
    np.testing.assert_array_equal(prepared(pictures, COLOUR, bgr=bgr), EXPECTED[None])


def test_grey_frames_may_lack_the_channel() -> None:
    grey = np.asarray(photo("L"))
    expected = decode_image(saved(photo("L")), GREY, source="x.png")
    np.testing.assert_array_equal(prepared([grey, grey[:, :, None]], GREY), np.stack([expected] * 2))


def test_an_array_as_the_bundle_takes_it_is_not_touched() -> None:
    for array in (np.zeros((2, 28, 28, 3), np.uint8), np.zeros((2, 3, 28, 28), np.float32)):
        assert prepared(array, COLOUR) is array
    floats = np.random.default_rng(0).random((3, 28, 28), dtype=np.float32)
    np.testing.assert_array_equal(prepared(floats[::-1], COLOUR, bgr=True), floats[None])


def test_a_fourth_channel_that_the_bundle_takes_stays_the_fourth() -> None:
    four = type(COLOUR)(channels=4, height=45, width=61)
    frame = np.dstack([FRAME, FRAME[:, :, :1]])
    floats = frame.transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(prepared(frame[:, :, [2, 1, 0, 3]], four, bgr=True), frame[None])
    np.testing.assert_array_equal(prepared(floats[[2, 1, 0, 3]], four, bgr=True), floats[None])
    assert prepared(frame, four).base is frame


def test_a_tensor_is_what_its_array_is() -> None:
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(prepared(torch.from_numpy(FRAME.copy()), COLOUR), EXPECTED[None])
    with pytest.raises(InputError, match=r"the Tensor gives no array: .*requires grad"):
        prepared(torch.zeros(1, 3, 28, 28, requires_grad=True), COLOUR)
    with pytest.raises(InputError, match=r"got \[1, 3, 45, 61\]; a tensor \[C, H, W\] is one after .permute"):
        prepared(torch.zeros(3, 45, 61, dtype=torch.uint8), COLOUR)


@pytest.mark.parametrize(
    ("pictures", "bgr", "message"),
    [
        ("photo.jpg", False, r"expected a numpy array, a PIL image, .*, got str; PIL.Image.open"),
        ([], False, "got none"),
        ([FRAME, np.zeros((3, 28, 28), np.float32)], False, r"got float32 \[3, 28, 28\], uint8"),
        (photo(), True, "a PIL image is RGB by itself"),
        (np.zeros((4, 4, 2), np.uint8), False, r"expected frames.* got \[1, 4, 4, 2\]"),
        (np.zeros((0, 4, 3), np.uint8), False, "expected frames"),
        (np.zeros(3, np.uint8), False, "expected frames"),
        (Image.new("F", (4, 4)), False, "32-bit pixels"),
        (Image.new("I", (4, 4)), False, "32-bit pixels"),
        (Image.new("1", (8_001, 8_000)), False, "more than 64,000,000"),
        (np.zeros((8_001, 8_000), np.uint8), False, "more than 64,000,000"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(pictures: Any, bgr: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepared(pictures, COLOUR, bgr=bgr)


def test_pictures_for_a_bundle_of_two_channels_are_refused() -> None:
    two = type(COLOUR)(channels=2, height=28, width=28)
    for pictures in (photo(), FRAME):
        with pytest.raises(InputError, match="1 or 3 channels, the bundle takes 2"):
            prepared(pictures, two)
    assert prepared(np.zeros((28, 28, 2), np.uint8), two).shape == (1, 28, 28, 2)


@pytest.fixture(scope="module")
def pipeline(bundle_path: Path) -> Iterator[Pipeline]:
    with Pipeline.load(bundle_path, engine="onnxruntime", precision="fp32") as loaded:
        yield loaded


ASKED: dict[str, Callable[[Pipeline, Any], NDArray[Any]]] = {
    "predict": lambda pipeline, pictures: pipeline.predict(pictures).probabilities,
    "stream": lambda pipeline, pictures: next(iter(pipeline.stream([pictures]))).probabilities,
    "purify": Pipeline.purify,
    "labels": Pipeline.labels,
    "probabilities": Pipeline.probabilities,
    "classify": Pipeline.classify,
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_pipeline_answers_pictures_as_what_they_are_prepared_to(pipeline: Pipeline, ask: Any) -> None:
    ready = pipeline.prepare(photo())
    assert ready.shape == (1, 28, 28, 1)
    assert ready.dtype == np.uint8
    for pictures in (photo(), FRAME, [FRAME]):
        np.testing.assert_array_equal(ask(pipeline, pictures), ask(pipeline, ready))


def test_a_stream_takes_one_picture_at_a_time(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match="image 0 of the stream: expected one image, got 2"):
        list(pipeline.stream([[FRAME, FRAME]]))
