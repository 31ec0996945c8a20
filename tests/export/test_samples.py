import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.tiny import random_images, tiny_run
from purify_edge.bundle.manifest import Preprocessing
from purify_edge.bundle.report import LEAST_ANSWERS
from purify_edge.errors import InputError
from purify_export.convert.amounts import GOLDEN, IMAGES
from purify_export.images.samples import OTHERS, images_of, resized
from purify_toolkit.runs.folder import RunFolder, Samples
from purify_toolkit.runs.pretrained import FOLDER, open_run

SIZE = (28, 28)


def test_no_image_both_judges_and_calibrates(shipped: RunFolder) -> None:
    images, samples = images_of(shipped, None, SIZE), shipped.load_samples()
    assert (len(images.judging), len(images.others)) == (IMAGES, 1000 - IMAGES)
    assert torch.equal(torch.cat([images.judging.images, images.others.images]), samples.images)
    assert torch.equal(torch.cat([images.judging.labels, images.others.labels]), samples.labels)
    assert images.source == "test images that the golden set leaves"


def test_with_a_dataset_validation_images_calibrate(tmp_path: Path, shipped: RunFolder) -> None:
    run = open_run(str(shutil.copytree(FOLDER / "fashion-mnist", tmp_path / "run")))
    with pytest.raises(InputError, match="does not hold Fashion-MNIST"):
        images_of(run, tmp_path / "run", SIZE)
    known = shipped.load_samples()
    for label, name in enumerate(run.info["class_names"]):
        of_class = known.images[known.labels == label][:12, 0].numpy()
        for part, images in (("train", of_class[:1]), ("validation", of_class[1:6]), ("test", of_class[6:])):
            folder = tmp_path / "data" / part / name.replace("/", "_")
            folder.mkdir(parents=True)
            for index, image in enumerate(images):
                Image.fromarray(image).save(folder / f"{index}.png")
    found = images_of(run, tmp_path / "data", SIZE)
    assert (len(found.judging), len(found.others)) == (60, 50)
    assert found.source == "validation images"
    of_test = {image.tobytes() for image in found.judging.images.numpy()}
    assert not of_test & {image.tobytes() for image in found.others.images.numpy()}
    assert of_test <= {image.tobytes() for image in known.images.numpy()}
    assert sorted(found.judging.labels.tolist()) == sorted([*range(10)] * 6)
    again = images_of(run, tmp_path / "data", SIZE).others
    assert torch.equal(again.images, found.others.images)


def test_the_largest_set_of_images_is_not_taken_whole(tmp_path: Path) -> None:
    run, count = tiny_run(tmp_path / "run", classes=3, channels=1), IMAGES + OTHERS + 7
    split = random_images(classes=3, channels=1, count=count)
    run.save_samples(Samples(split.images, split.labels, torch.arange(count)))
    assert len(images_of(run, None, (12, 12)).others) == OTHERS


@pytest.mark.parametrize(("side", "judging"), [(28, 256), (300, 168), (1000, 100)])
def test_what_the_golden_set_of_large_images_leaves_calibrates(shipped: RunFolder, side: int, judging: int) -> None:
    images = images_of(shipped, None, (side, side))
    assert (len(images.judging), len(images.others)) == (judging, 1000 - judging)


@pytest.mark.parametrize("side", [28, 224, 288, 1024])
def test_a_golden_set_of_large_images_has_the_answers_that_a_lower_precision_needs(side: int) -> None:
    assert 2 * GOLDEN.of((3, side, side)) >= LEAST_ANSWERS


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_resized_by_the_filter_that_files_are(channels: int) -> None:
    given = random_images(classes=3, channels=channels, count=4)
    found = resized(given, (7, 20), Preprocessing())
    assert found.images.shape == (4, channels, 7, 20)
    assert found.images.dtype == torch.uint8
    pixels = given.images[2].permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    expected = np.asarray(image.resize((20, 7), Image.Resampling.BILINEAR)).reshape(7, 20, channels)
    assert np.array_equal(found.images[2].permute(1, 2, 0).numpy(), expected)
    assert resized(given, (12, 12), Preprocessing()) is given
