import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from purify_export.golden import IMAGES
from torch import nn

from helpers.tiny import random_images, tiny_run
from purify_edge.errors import InputError
from purify_export.export import Networks
from purify_export.images import (
    CALIBRATION,
    FOR_THRESHOLD,
    calibration_of,
    check_calibration,
    check_size,
    images_of,
    resized,
)
from purify_toolkit.runs.folder import RunFolder, Samples
from purify_toolkit.runs.pretrained import FOLDER, open_run


def samples(count: int, side: int = 12, classes: int = 3) -> Samples:
    split = random_images(classes=classes, channels=1, side=side, count=count)
    return Samples(split.images, split.labels, torch.arange(count))


def test_no_image_both_judges_and_calibrates(shipped: RunFolder) -> None:
    images = images_of(shipped, None)
    assert len(images.others.labels) == 1000 - IMAGES
    assert not set(images.judging.indices[:IMAGES].tolist()) & set(images.others.indices.tolist())
    assert images.source == "test images that the golden set leaves"


def test_too_few_images_to_calibrate_on_are_counted_and_data_is_asked_for(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", classes=3, channels=1)
    run.save_samples(samples(IMAGES + 31))
    with pytest.raises(InputError, match=r"32 images or more .* leaves 31; --data names its dataset's folder"):
        check_calibration(run, images_of(run, None).others)
    run.save_samples(samples(IMAGES + 32))
    told: list[str] = []
    others = images_of(run, None).others
    check_calibration(run, others, tell=told.append)
    assert len(others.labels) == 32
    assert "only 32 images to calibrate INT8 on, 512 are wanted" in told[0]


def test_with_a_dataset_validation_images_calibrate(tmp_path: Path, shipped: RunFolder) -> None:
    run = open_run(str(shutil.copytree(FOLDER / "fashion-mnist", tmp_path / "run")))
    known = shipped.load_samples()
    for label, name in enumerate(run.info["class_names"]):
        of_class = known.images[known.labels == label][:12, 0].numpy()
        for part, images in (("train", of_class[:1]), ("validation", of_class[1:6]), ("test", of_class[6:])):
            folder = tmp_path / "data" / part / name.replace("/", "_")
            folder.mkdir(parents=True)
            for index, image in enumerate(images):
                Image.fromarray(image).save(folder / f"{index}.png")
    images = images_of(run, tmp_path / "data")
    assert (len(images.judging.labels), len(images.others.labels)) == (60, 50)
    assert images.source == "validation images"
    of_test = {image.tobytes() for image in images.judging.images.numpy()}
    assert not of_test & {image.tobytes() for image in images.others.images.numpy()}
    again = images_of(run, tmp_path / "data").others
    assert torch.equal(again.images, images.others.images)


def test_the_largest_set_of_images_is_not_taken_whole(shipped: RunFolder, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", classes=3, channels=1)
    run.save_samples(samples(IMAGES + FOR_THRESHOLD + 7))
    others = images_of(run, None).others
    assert len(others.labels) == FOR_THRESHOLD
    calibration = calibration_of(shipped, lambda x: x.flatten(1)[:, :3], others)  # type: ignore[arg-type]
    assert len(calibration["clean"].labels) + len(calibration["adversarial"].labels) == CALIBRATION


def test_half_of_the_calibration_images_are_attacked(networks: Networks, shipped: RunFolder) -> None:
    rest = images_of(shipped, None).others
    few = Samples(rest.images[:40], rest.labels[:40], rest.indices[:40])
    calibration = calibration_of(shipped, networks.classifier, few)
    clean, adversarial = calibration["clean"], calibration["adversarial"]
    assert np.array_equal(clean.images, few.images[0::2].float().numpy() / np.float32(255))
    assert np.array_equal(adversarial.labels, few.labels[1::2].numpy())
    distance = np.abs(adversarial.images - few.images[1::2].numpy() / 255).reshape(20, -1).max(axis=1)
    assert (distance > 0.05).all()
    assert (distance <= shipped.recipe.evaluation.epsilon + 1e-6).all()
    with torch.no_grad():
        fooled = networks.classifier(torch.from_numpy(adversarial.images)).argmax(dim=1).numpy() != adversarial.labels
    assert fooled.mean() > 0.9


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_resized_by_the_filter_that_files_are(channels: int) -> None:
    split = random_images(classes=3, channels=channels, count=4)
    given = Samples(split.images, split.labels, torch.arange(4))
    found = resized(given, (7, 20))
    assert found.images.shape == (4, channels, 7, 20)
    assert found.images.dtype == torch.uint8
    pixels = split.images[2].permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    expected = np.asarray(image.resize((20, 7), Image.Resampling.BILINEAR)).reshape(7, 20, channels)
    assert np.array_equal(found.images[2].permute(1, 2, 0).numpy(), expected)
    assert resized(given, (12, 12)) is given


def test_a_classifier_that_does_not_take_a_size_is_refused_with_its_own_words(networks: Networks) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))
    check_size(flat, (1, 28, 28), 10)
    with pytest.raises(InputError, match=r"does not take images of 32x32: mat1 and mat2.*--size is for classifiers"):
        check_size(flat, (1, 32, 32), 10)
    check_size(networks.classifier, (1, 33, 47), 10)
    with pytest.raises(InputError, match=r"gives \(2, 784\) for two images of 28x28, expected \(2, 10\)"):
        check_size(nn.Flatten(), (1, 28, 28), 10)
