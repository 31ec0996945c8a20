"""The dataset of a recipe and of a run, and the test images that travel with a run."""

from pathlib import Path

import numpy as np
import torch

from purify_edge.bundle.manifest import Preprocessing
from purify_edge.errors import InputError
from purify_toolkit.data import datasets
from purify_toolkit.data.splits import ImageData
from purify_toolkit.recipe import Recipe
from purify_toolkit.runs.folder import RunFolder, Samples

SAMPLES = 1000


def load_data(recipe: Recipe, folder: Path | None, preprocessing: Preprocessing | None = None) -> ImageData:
    """Load the dataset of a recipe; see `datasets.load_data`."""
    return datasets.load_data(
        recipe.dataset,
        folder,
        validation_size=recipe.validation_size,
        channels=recipe.channels,
        image_size=recipe.image_size,
        preprocessing=preprocessing,
    )


def load_data_of(run: RunFolder, folder: Path | None) -> ImageData:
    """Load the dataset that a run was made with, or another of the same classes and image shape, else an InputError."""
    data = load_data(run.recipe, folder, run.input.preprocessing)
    for key, found in (("class_names", list(data.class_names)), ("image_shape", list(data.test.images.shape[1:]))):
        if found != run.info[key]:
            raise InputError(f"the data do not fit {run.path}: {key} {found}, the run has {run.info[key]}")
    return data


def choose_samples(data: ImageData, seed: int) -> Samples:
    """Choose test images at random, and keep them in the order of the test set."""
    chosen = np.random.default_rng(seed).permutation(len(data.test))[:SAMPLES]
    indices = torch.from_numpy(np.sort(chosen))
    split = data.test[indices]
    return Samples(split.images, split.labels, indices)
