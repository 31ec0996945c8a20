import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.processes import wait_for
from purify_edge import InputError, Pipeline
from purify_edge.bundle.golden import GoldenSplit


@pytest.fixture(scope="module")
def images(adversarial: GoldenSplit) -> NDArray[np.uint8]:
    return adversarial.images


@pytest.fixture(scope="module")
def pipeline(bundle_path: Path) -> Iterator[Pipeline]:
    with Pipeline.load(bundle_path, engine="onnxruntime", precision="fp32") as opened:
        yield opened


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_stream_says_what_predict_says(pipeline: Pipeline, images: NDArray[np.uint8], batch: int, live: bool) -> None:
    expected = pipeline.predict(images)
    found = list(pipeline.stream(iter(images), batch=batch, live=live))
    assert len(found) == len(images)
    for index, prediction in enumerate(found):
        assert prediction.labels.shape == (1,)
        assert prediction.purified.shape == (1, *expected.purified.shape[1:])
        np.testing.assert_allclose(prediction.probabilities[0], expected.probabilities[index], atol=1e-5)
        np.testing.assert_allclose(prediction.purified[0], expected.purified[index], atol=1e-5)
        assert prediction.purified.base is None  # keeping one does not keep a batch


def test_8bit_and_float_images_may_be_mixed(pipeline: Pipeline, images: NDArray[np.uint8]) -> None:
    floats = images.transpose(0, 3, 1, 2) / np.float32(255)
    mixed = [floats[index] if index % 2 else images[index] for index in range(20)]
    labels = [prediction.labels[0] for prediction in pipeline.stream(mixed)]
    assert labels == pipeline.predict(images[:20]).labels.tolist()


@pytest.mark.parametrize("kind", ["float32", "float64", "uint8"])
def test_a_camera_may_fill_one_array_again_and_again(pipeline: Pipeline, images: NDArray[np.uint8], kind: str) -> None:
    frames = images if kind == "uint8" else (images.transpose(0, 3, 1, 2) / 255).astype(kind)
    buffer = np.empty_like(frames[0], order="C")

    def camera() -> Iterator[NDArray[np.generic]]:
        for frame in frames:
            buffer[:] = frame
            yield buffer

    assert [prediction.labels[0] for prediction in pipeline.stream(camera())] == pipeline.predict(
        images
    ).labels.tolist()


def test_so_may_what_only_gives_an_array(pipeline: Pipeline, images: NDArray[np.uint8]) -> None:
    frames = images.transpose(0, 3, 1, 2) / np.float32(255)

    class Buffer:
        def __init__(self) -> None:
            self.content = np.empty_like(frames[:1], order="C")

        def __array__(self, dtype: object = None, copy: object = None) -> NDArray[np.float32]:
            return self.content

    def camera() -> Iterator[Buffer]:
        buffer = Buffer()
        for frame in frames:
            buffer.content[0] = frame
            yield buffer

    found = [prediction.labels[0] for prediction in pipeline.stream(camera())]
    assert found == pipeline.predict(images).labels.tolist()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((5, 5, 2), np.uint8), r"image 70 of the stream: expected frames, uint8"),
        (np.full((1, 28, 28), np.nan, np.float32), r"image 70 of the stream: expected pixels in \[0, 1\]"),
        ("photo.jpg", "image 70 of the stream: expected a numpy array, a PIL image, .*, got str"),
    ],
)
def test_a_bad_image_is_named_after_the_predictions_of_those_before_it(
    pipeline: Pipeline, images: NDArray[np.uint8], bad: object, message: str
) -> None:
    stream = pipeline.stream([*images[:70], bad, *images[:5]])  # type: ignore[list-item]
    found = []
    with pytest.raises(InputError, match=message):
        for prediction in stream:
            found.append(prediction)
    assert len(found) == 70


def test_a_batch_of_none_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match="batch 0: expected 1 or more"):
        pipeline.stream([], batch=0)


def test_threads_may_stream_at_once(pipeline: Pipeline, images: NDArray[np.uint8]) -> None:
    expected = pipeline.predict(images).labels

    def labels(start: int) -> list[int]:
        return [int(prediction.labels[0]) for prediction in pipeline.stream(images[start:], batch=5)]

    with ThreadPoolExecutor(4) as pool:
        for start, found in zip((0, 50, 100, 150), pool.map(labels, (0, 50, 100, 150)), strict=True):
            assert found == expected[start:].tolist()


def test_a_live_stream_answers_before_the_next_image_comes(pipeline: Pipeline, images: NDArray[np.uint8]) -> None:
    answered = threading.Event()
    waited: list[bool] = []

    def camera() -> Iterator[NDArray[np.uint8]]:
        yield images[0]
        waited.append(answered.wait(300))
        yield images[1]

    for _ in pipeline.stream(camera(), live=True):
        answered.set()
    wait_for(lambda: waited)
    assert waited == [True]


def test_a_closed_pipeline_says_so(bundle_path: Path, images: NDArray[np.uint8]) -> None:
    with Pipeline.load(bundle_path, engine="onnxruntime", precision="fp32") as pipeline:
        pass
    pipeline.close()  # again does no harm
    for call in (pipeline.predict, pipeline.purify, pipeline.classify, pipeline.probabilities):
        with pytest.raises(InputError, match="the pipeline is closed"):
            call(images[:1])
