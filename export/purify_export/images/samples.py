"""The images that an export takes from a run: those that judge and those that calibrate."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from purify_edge.bundle.manifest import InputContract, Preprocessing
from purify_edge.images.fitting import fitted
from purify_export.convert.amounts import GOLDEN, OTHERS
from purify_toolkit.data.splits import Split
from purify_toolkit.runs.data import choose_samples, load_data_of
from purify_toolkit.runs.folder import RunFolder


@dataclass(frozen=True)
class RunImages:
    """What an export takes from a run: no image is in both parts."""

    judging: Split  # test images, for the golden set
    others: Split  # clean images for what is calibrated; there may be none
    source: str  # where the others came from


def images_of(run: RunFolder, data: Path | None, size: tuple[int, int]) -> RunImages:
    """Return images for the golden set, 256 or fewer where the height and width they will have are large, and others.

    The first are test images: those that travel with the run, else, or where `data` is given, a choice from the
    dataset. The others, up to 2,000, are those that travel and that the golden set leaves, else validation images.
    """
    count = GOLDEN.of((run.input.channels, *size))
    if data is None and run.has_samples:
        travelling = run.load_samples()
        return RunImages(travelling[:count], travelling[count:][:OTHERS], "test images that the golden set leaves")
    found = load_data_of(run, data)
    chosen = np.random.default_rng(run.info["seed"]).permutation(len(found.validation))[:OTHERS]
    judging = choose_samples(found, run.info["seed"])[:count]
    return RunImages(judging, found.validation[torch.from_numpy(chosen)], "validation images")


def resized(images: Split, size: tuple[int, int], how: Preprocessing) -> Split:
    """Return images stretched to another height and width, by the filter that scales pictures to the input."""
    if tuple(images.images.shape[2:]) == size:
        return images
    stretched = Preprocessing(interpolation=how.interpolation, antialias=how.antialias)
    contract = InputContract(channels=1, height=size[0], width=size[1], preprocessing=stretched)
    planes = images.images.flatten(0, 1).numpy()
    small = [fitted(Image.fromarray(plane), contract)[:, :, 0] for plane in planes]
    return Split(torch.from_numpy(np.array(small, np.uint8)).view(*images.images.shape[:2], *size), images.labels)


def filter_of(how: Preprocessing) -> str:
    """Return what `resized` scales by, as text."""
    averages = how.antialias and how.interpolation != "nearest"
    return (
        f"Pillow's {how.interpolation} filter, which averages when it shrinks"
        if averages
        else f"{how.interpolation} sampling"
    )
