"""The images that an export takes from a run: those that judge, those that calibrate, and both at another size."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from purify_edge.errors import InputError, reason
from purify_export.convert.calibration import Calibration, ImageSet
from purify_export.golden import IMAGES, attacked
from purify_toolkit.runs.datasets import load_data_of
from purify_toolkit.runs.folder import RunFolder, Samples
from purify_toolkit.train.train import choose_samples

CALIBRATION = 512
FOR_THRESHOLD = 2000  # images, for the suspicion score's threshold
MIN_CALIBRATION = 32
FILTER = "Pillow's bilinear filter, which averages when it shrinks"


@dataclass(frozen=True)
class Images:
    """What an export takes from a run: no image is in both parts.

    Attributes:
        judging: test images, for the golden set.
        others: clean images that set what is calibrated; there may be none.
        source: where the others came from.
    """

    judging: Samples
    others: Samples
    source: str


def images_of(run: RunFolder, data: Path | None) -> Images:
    """Images for the golden set, and up to 2,000 others.

    The first are test images: those that travel with the run, else, or where `data` is given, a choice from the
    dataset. The others are those that travel and that the golden set leaves, else validation images.

    Raises:
        InputError: the dataset does not fit the run, or cannot be had.
    """
    if data is None and run.has_samples:
        samples = run.load_samples()
        rest = Samples(*(part[IMAGES:][:FOR_THRESHOLD] for part in (samples.images, samples.labels, samples.indices)))
        return Images(samples, rest, "test images that the golden set leaves")
    found = load_data_of(run, data)
    chosen = np.random.default_rng(run.info["seed"]).permutation(len(found.validation))[:FOR_THRESHOLD]
    indices = torch.from_numpy(chosen)
    rest = Samples(found.validation.images[indices], found.validation.labels[indices], indices)
    return Images(choose_samples(found, run.info["seed"]), rest, "validation images")


def check_calibration(run: RunFolder, others: Samples, tell: Callable[[str], None] = lambda text: None) -> None:
    """See that there are images to calibrate INT8 on; `tell` is told where they are few.

    Raises:
        InputError: too few.
    """
    count = len(others.labels)
    if count < MIN_CALIBRATION:
        raise InputError(
            f"INT8 is calibrated on {MIN_CALIBRATION} images or more that are not in the golden set, {run.path} leaves "
            f"{count}; --data names its dataset's folder, of which validation images are taken"
        )
    if count < CALIBRATION:
        tell(
            f"only {count} images to calibrate INT8 on, {CALIBRATION} are wanted: ranges may be too narrow, "
            "and one answer that turns weighs more; --data names a folder with more"
        )


def calibration_of(run: RunFolder, classifier: nn.Module, samples: Samples) -> Calibration:
    """The first 512 samples, every second one attacked, as the golden set's are.

    Clean images alone would set the ranges of layers that adversarial images exceed.
    """
    images, labels = samples.images[:CALIBRATION], samples.labels[:CALIBRATION]
    clean, other = ((images[first::2], labels[first::2]) for first in (0, 1))
    adversarial = attacked(classifier, *other, run.recipe.evaluation, seed=run.info["seed"] + 1)
    return {"clean": _image_set(*clean), "adversarial": _image_set(adversarial, other[1])}


def _image_set(images_u8: Tensor, labels: Tensor) -> ImageSet:
    return ImageSet(np.ascontiguousarray(images_u8.float().div(255).numpy()), labels.numpy())


def resized(samples: Samples, size: tuple[int, int]) -> Samples:
    """The samples at another height and width, by the filter that `purify-run` uses."""
    if tuple(samples.images.shape[2:]) == size:
        return samples
    planes = samples.images.flatten(0, 1).numpy()
    small = [np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR)) for plane in planes]
    images = torch.from_numpy(np.stack(small)).view(*samples.images.shape[:2], *size)
    return Samples(images, samples.labels, samples.indices)


def check_size(classifier: nn.Module, image_shape: tuple[int, int, int], classes: int) -> None:
    """See that a classifier takes images of a size.

    Raises:
        InputError: it does not.
    """
    channels, height, width = image_shape
    expected = (2, classes)
    try:
        with torch.no_grad():
            found = tuple(classifier(torch.zeros(2, channels, height, width)).shape)
    except Exception as error:  # a user's network may raise anything
        raise InputError(
            f"the classifier does not take images of {height}x{width}: {reason(error)}; --size is for classifiers that "
            "pool over all of the image, others take the size that they were trained on"
        ) from error
    if found != expected:
        raise InputError(
            f"the classifier gives {found} for two images of {height}x{width}, expected {expected}; leave --size out"
        )
