"""The section with examples: a few golden images, and what the models made of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Report
from purify_edge.check.comparison import Comparison
from purify_edge.check.page.checked_bundle import CheckedBundle
from purify_edge.document.model import Example, Examples, Picture, Section
from purify_edge.pipeline.prediction import softmax

EXAMPLES = 8
LEAST_EXAMPLES = 2
MAX_SIDE = 256
"""Pixels of an image's longer side; a larger image is shrunk for the page."""
PIXELS = 200_000  # of all examples together, or the page becomes large

Shown = tuple[NDArray[np.generic], NDArray[np.float32]]
"""Images, uint8 `[N, H, W, C]` or float32 `[N, C, H, W]` in [0, 1], and the probabilities `[N, K]` of their classes."""


def subject_of(bundle: Bundle, golden: Mapping[str, GoldenSplit], first: Comparison) -> CheckedBundle:
    """Return the bundle and its first golden images, with what the first engine of a check made of them."""
    if not {"clean", "adversarial"} <= golden.keys():
        return CheckedBundle(bundle.manifest, verified=bundle.verified)
    alone, outputs = {}, first.outputs
    for split in ("clean", "adversarial"):
        alone[split] = golden[split].images[:EXAMPLES], softmax(outputs["classifier", split][:EXAMPLES])
    purified = outputs["purifier", "adversarial"][:EXAMPLES], softmax(outputs["pipeline", "adversarial"][:EXAMPLES])
    shown: dict[str, Shown] = {**alone, "purified": purified}
    labels, names = golden["clean"].labels, bundle.manifest.class_names
    return CheckedBundle(bundle.manifest, examples_of(shown, labels, names), bundle.verified)


def examples_of(
    shown: Mapping[str, Shown], labels: NDArray[np.int64], class_names: Sequence[str]
) -> tuple[Example, ...]:
    """Return the first images, not chosen; fewer where they are large, none where they have neither 1 nor 3 channels.

    Args:
        shown: by title the stages of the same images, `{"clean": ..., "adversarial": ..., "purified": ...}`.
        labels, class_names: the true classes `[N]`, and the name of each class.
    """
    count = min(len(labels), EXAMPLES)
    images = {title: [_shown(_as_8bit(image)) for image in pixels[:count]] for title, (pixels, _) in shown.items()}
    height, width, channels = next(iter(images.values()))[0].shape
    if channels not in (1, 3):
        return ()
    count = min(count, max(LEAST_EXAMPLES, PIXELS // (len(shown) * height * width)))
    return tuple(
        Example(
            index + 1,
            class_names[int(labels[index])],
            tuple(
                _picture(title, images[title][index], probabilities[index], int(labels[index]), class_names)
                for title, (_, probabilities) in shown.items()
            ),
        )
        for index in range(count)
    )


def _picture(
    title: str, image: NDArray[np.uint8], probabilities: NDArray[np.float32], label: int, names: Sequence[str]
) -> Picture:
    named = int(probabilities.argmax())
    return Picture(title, image, names[named], float(probabilities[named]), right=named == label)


def _as_8bit(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return a picture `[H, W, C]`; what is not a number becomes black."""
    if image.dtype == np.uint8:
        return image.astype(np.uint8)
    pixels = np.nan_to_num(image.astype(np.float32)).clip(0, 1).transpose(1, 2, 0)
    return (pixels * 255).round().astype(np.uint8)


def _shown(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image, shrunk where it is larger than the page shows."""
    height, width, channels = image.shape
    factor = MAX_SIDE / max(height, width)
    if factor >= 1 or channels not in (1, 3):
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    picture = Image.fromarray(image[:, :, 0] if channels == 1 else image).resize(size, Image.Resampling.BOX)
    return np.asarray(picture).reshape(size[1], size[0], channels)


def examples_section(report: Report, about: CheckedBundle) -> Section | None:
    """Return the section with the bundle's examples."""
    if not about.examples or not report.parity:
        return None
    first, manifest = report.parity[0], about.manifest
    shrunk = (
        f" They are shrunk to {MAX_SIDE} pixels for this page."
        if max(manifest.input.height, manifest.input.width) > MAX_SIDE
        else ""
    )
    how = (
        f"The first {len(about.examples)} images of the golden set, not chosen, as {first.engine} {first.precision} "
        f"sees them. Attack: {manifest.golden.attack}. Under each image stands the class that the classifier names, "
        f"with its probability; the class under purified is the pipeline's.{shrunk}"
    )
    return Section("Examples", (Examples(about.examples),), intro=how, for_pages=True)
