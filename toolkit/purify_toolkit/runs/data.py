"""The dataset of a recipe and of a run, and the test images that travel with a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from purify_edge.bundle.manifest import Preprocessing
from purify_edge.errors import InputError
from purify_toolkit.data import datasets
from purify_toolkit.data.splits import ImageData
from purify_toolkit.device.choice import choose_device
from purify_toolkit.recipe import Recipe
from purify_toolkit.runs.classes import in_classes_of_run
from purify_toolkit.runs.folder import RunFolder, Samples

SAMPLES = 1000


def load_data(
    recipe: Recipe,
    folder: Path | None,
    *,
    preprocessing: Preprocessing | None = None,
    labels: Path | None = None,
    unlabelled: bool = False,
) -> ImageData:
    """Load the dataset of a recipe; see `datasets.load_data`."""
    return datasets.load_data(
        recipe.dataset,
        folder,
        validation_size=recipe.validation_size,
        channels=recipe.channels,
        image_size=recipe.image_size,
        preprocessing=preprocessing,
        labels_file=labels,
        unlabelled=unlabelled,
    )


def load_data_of(run: RunFolder, folder: Path | None, *, labels: Path | None = None, device: str = "auto") -> ImageData:
    """Load the dataset that a run was made with, or another of the same classes and image shape, else an InputError.

    Args:
        run: the run.
        folder: holds the dataset.
        labels: its table of labels; None for one in the folder that is called as the run's was.
        device: where a run's classifier labels the images of a run that was trained without labels. Its training
            images are left out, for nothing trains on them here, and labelling them takes longest.
    """
    labels, how = labels or _labels_in(run, folder), run.input.preprocessing
    data = load_data(run.recipe, folder, preprocessing=how, labels=labels, unlabelled=run.is_unlabelled)
    if run.is_unlabelled:
        data = replace(data, train=data.train[:0])
    data = in_classes_of_run(run, data, choose_device(device))
    for key, found in (("class_names", list(data.class_names)), ("image_shape", list(data.test.images.shape[1:]))):
        if found != run.info[key]:
            raise InputError(f"the data do not fit {run.path}: {key} {found}, the run has {run.info[key]}")
    return data


def _labels_in(run: RunFolder, folder: Path | None) -> Path | None:
    """Return the table of labels in the folder of a run's data; None where the run has none."""
    name = run.info.get("labels")
    if name is None or folder is None:
        return None
    place = folder if folder.is_dir() else folder.parent
    if not (place / name).is_file():
        raise InputError(
            f"the run's labels were in {name}, and {place} holds no such file: put it there, or give purify-eval "
            "--labels FILE"
        )
    return place / str(name)


def choose_samples(data: ImageData, seed: int) -> Samples:
    """Choose test images at random, and keep them in the order of the test set."""
    chosen = np.random.default_rng(seed).permutation(len(data.test))[:SAMPLES]
    indices = torch.from_numpy(np.sort(chosen))
    split = data.test[indices]
    return Samples(split.images, split.labels, indices)
