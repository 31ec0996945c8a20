"""What a report is about: the bundle, and a few of its golden images as the pipeline sees them here."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.manifest import Manifest
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Report
from purify_edge.engines.tensorrt.store import EnginePolicy
from purify_edge.images.arrays import to_8bit
from purify_edge.pipeline.pipeline import Pipeline, open_model

EXAMPLES = 8
MAX_SIDE = 256
"""Pixels of an image's longer side; a larger one is shrunk for the page."""
PIXELS = 200_000  # of all examples together, or the page becomes large
LEAST_EXAMPLES = 2


@dataclass(frozen=True)
class Picture:
    """An image, uint8 `[H, W, C]`, and what the classifier says of it."""

    title: str
    image: NDArray[np.uint8]
    word: str
    probability: float
    right: bool


@dataclass(frozen=True)
class Example:
    """A golden image: its true class; clean, adversarial, and the adversarial one purified."""

    number: int
    label: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Subject:
    """What a page tells beside the report.

    Attributes:
        manifest: the bundle's.
        examples: the first images of the golden set, none where it has no adversarial ones or they cannot be shown.
        verified: whether the bundle's signature was found to be that of a key which the user trusts.
    """

    manifest: Manifest
    examples: tuple[Example, ...] = ()
    verified: bool = False


def subject_of(bundle: Bundle, report: Report, *, policy: EnginePolicy | None = None) -> Subject:
    """The bundle, and what the first engine of its report makes of the first golden images.

    Args:
        bundle: the bundle.
        report: of it, from this device.
        policy: what may be done about engine files; None for the defaults.

    Raises:
        BundleError, MissingError, BuildError: see `open_model` and `load_golden`.
    """
    first = report.parity[0]
    with ExitStack() as stack:
        purifier, classifier = (
            stack.enter_context(open_model(bundle, role, first.precision, first.engine, policy))
            for role in ("purifier", "classifier")
        )
        pipeline = Pipeline(bundle.manifest, purifier, classifier, suspicion=False)
        stack.pop_all()  # the pipeline closes its engines
    with pipeline:
        return Subject(bundle.manifest, examples_of(pipeline, load_golden(bundle)), bundle.verified)


def examples_of(pipeline: Pipeline, golden: Mapping[str, GoldenSplit]) -> tuple[Example, ...]:
    """The first images of the golden set, not chosen; fewer where they are large."""
    if not {"clean", "adversarial"} <= golden.keys() or pipeline.input.channels not in (1, 3):
        return ()
    clean, attacked = golden["clean"], golden["adversarial"]
    height, width = _shown(clean.images[0]).shape[:2]
    count = min(EXAMPLES, max(LEAST_EXAMPLES, PIXELS // (3 * height * width)), len(clean), len(attacked))
    prediction = pipeline.predict(attacked.images[:count])
    shown = {
        "clean": (clean.images, pipeline.classify(clean.images[:count])),
        "adversarial": (attacked.images, pipeline.classify(attacked.images[:count])),
        "purified": (_as_8bit(prediction.purified), prediction.probabilities),
    }
    return tuple(
        Example(
            index + 1,
            pipeline.class_names[int(clean.labels[index])],
            tuple(
                _picture(title, images[index], probabilities[index], int(clean.labels[index]), pipeline.class_names)
                for title, (images, probabilities) in shown.items()
            ),
        )
        for index in range(count)
    )


def _picture(
    title: str, image: NDArray[np.uint8], probabilities: NDArray[np.float32], label: int, names: tuple[str, ...]
) -> Picture:
    word = int(probabilities.argmax())
    return Picture(title, _shown(image), names[word], float(probabilities[word]), word == label)


def _shown(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image, shrunk where it is larger than the page shows."""
    height, width, channels = image.shape
    factor = MAX_SIDE / max(height, width)
    if factor >= 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    picture = Image.fromarray(image[:, :, 0] if channels == 1 else image).resize(size, Image.Resampling.BOX)
    return np.asarray(picture).reshape(size[1], size[0], channels)


def _as_8bit(purified_NCHW: NDArray[np.float32]) -> NDArray[np.uint8]:
    images = [np.asarray(to_8bit(image)).reshape(*image.shape[1:], -1) for image in np.nan_to_num(purified_NCHW)]
    return np.stack(images)
