from pathlib import Path

import pytest
import torch

from helpers.small_data import TRAIN, VALIDATION
from purify_edge.errors import InputError
from purify_toolkit.data.datasets import load_data
from purify_toolkit.data.splits import ImageData, Split, hold_out


@pytest.fixture
def loaded(small_data: Path) -> ImageData:
    return load_data("fashion-mnist", small_data, validation_size=VALIDATION)


def test_mean_and_deviation_are_those_of_the_training_pixels(loaded: ImageData) -> None:
    mean, std = loaded.mean_std()
    pixels = loaded.train.images.double() / 255
    assert mean == pytest.approx([pixels.mean().item()])
    assert std == pytest.approx([pixels.std(correction=0).item()])


def test_a_channel_that_is_the_same_everywhere_is_not_divided_by_nothing() -> None:
    split = Split(torch.full((4, 3, 2, 2), 90, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    mean, std = ImageData("blue", ("a", "b"), split, split, split).mean_std()
    assert mean == pytest.approx([90 / 255] * 3)
    assert std == pytest.approx([1 / 255] * 3)


def test_limiting_takes_the_first_of_each_part(loaded: ImageData) -> None:
    limited = loaded.limited(7)
    assert [len(part) for part in (limited.train, limited.validation, limited.test)] == [7, 7, 7]
    assert torch.equal(limited.test.images, loaded.test.images[:7])


def test_the_last_images_are_held_out() -> None:
    split = Split(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10))
    train, validation = hold_out(split, 3)
    assert (train.labels.tolist(), validation.labels.tolist()) == ([*range(7)], [7, 8, 9])
    assert torch.equal(validation.images.flatten().long(), validation.labels)


@pytest.mark.parametrize("size", [-1, 0, TRAIN])
def test_a_validation_part_that_leaves_nothing_is_refused(small_data: Path, size: int) -> None:
    with pytest.raises(InputError, match=f"validation_size must be between 1 and {TRAIN - 1}, got {size}"):
        load_data("fashion-mnist", small_data, validation_size=size)
