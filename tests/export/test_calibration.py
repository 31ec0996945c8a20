"""What is set on images that the golden set does not have."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from helpers.tiny import random_images
from purify_edge.bundle.golden import GoldenSplit
from purify_edge.errors import InputError
from purify_edge.pipeline.sparing import is_spared
from purify_export.convert.amounts import CALIBRATION
from purify_export.images.calibration import (
    calibration_of,
    changed,
    check_calibration,
    spare_of,
    threshold_of,
    thresholds_of,
)
from purify_export.images.golden import reference
from purify_export.images.samples import images_of
from purify_export.networks import Networks
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.splits import Split
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import open_run

ATTACK = PGD(epsilon=0.1, steps=20, relative_step=1 / 8)


@pytest.fixture(scope="module")
def others(shipped: RunFolder) -> Split:
    return images_of(shipped, None, (28, 28)).others


def seen(networks: Networks, images: Split) -> GoldenSplit:
    return reference(networks, images.images, images.labels)


def test_too_few_images_to_calibrate_on_are_counted_and_more_are_asked_for(others: Split) -> None:
    with pytest.raises(InputError, match=r"32 images or more .* leaves 31; give more images .*--data names"):
        check_calibration(others[:31])
    told: list[str] = []
    check_calibration(others[:32], told.append)
    assert "only 32 images to calibrate INT8 on, 512 are wanted" in told[0]
    check_calibration(others[:512], told.append)
    assert len(told) == 1


def test_half_of_the_calibration_images_are_attacked(networks: Networks, shipped: RunFolder, others: Split) -> None:
    few = others[:40]
    calibration = calibration_of(networks, few, shipped.recipe.evaluation, seed=0)
    clean, adversarial = calibration["clean"], calibration["adversarial"]
    assert np.array_equal(clean.images, few.images[0::2].float().numpy() / np.float32(255))
    assert np.array_equal(adversarial.labels, few.labels[1::2].numpy())
    distance = np.abs(adversarial.images - few.images[1::2].numpy() / 255).reshape(20, -1).max(axis=1)
    assert (distance > 0.05).all()
    assert (distance <= shipped.recipe.evaluation.epsilon + 1e-6).all()
    with torch.no_grad():
        fooled = networks.classifier(torch.from_numpy(adversarial.images)).argmax(dim=1).numpy() != adversarial.labels
    assert fooled.mean() > 0.9


def test_no_more_than_512_images_calibrate(shipped: RunFolder) -> None:
    networks = Networks(nn.Identity(), nn.Sequential(nn.Flatten(), nn.Linear(144, 3)).eval())
    many = random_images(classes=3, channels=1, count=CALIBRATION.most + 7)
    calibration = calibration_of(networks, many, shipped.recipe.evaluation, seed=0)
    assert len(calibration["clean"].labels) + len(calibration["adversarial"].labels) == CALIBRATION.most


def test_a_threshold_says_what_set_it(networks: Networks, others: Split) -> None:
    told: list[str] = []
    few, judging = others[:120], others[120:240]
    found = threshold_of(networks, few, seen(networks, few), judging, source="somewhere", seed=0, tell=told.append)
    assert found is not None
    assert (found.n, found.false_positive_rate, found.images) == (120, 0.01, "somewhere")
    assert 5 < found.threshold < 25
    assert [row.change for row in found.benign][:2] == ["gaussian noise", "shot noise"]
    assert len(found.benign) == 12
    assert all(row.n == 120 and row.flagged < 0.15 for row in found.benign)
    assert any(row.flagged for row in found.benign)
    assert told == []


@pytest.mark.parametrize("count", [0, 98])
def test_of_too_few_images_there_is_none_and_it_is_told(networks: Networks, others: Split, count: int) -> None:
    told: list[str] = []
    few = others[:count]
    assert thresholds_of(networks, few, others[:20], ATTACK, source="", seed=0, tell=told.append).suspicion is None
    assert told == [
        f"no suspicion score: {count} clean images do not set a threshold for 1% false positives, 99 or more do; "
        "give more images (purify-export: --data names a folder with more)"
    ]


def test_most_clean_images_stay_below_the_threshold_to_spare_them_by(networks: Networks, others: Split) -> None:
    told: list[str] = []
    calm, more = seen(networks, others[:120]), seen(networks, others[120:])
    found = spare_of(networks, calm, others[120:240], ATTACK, source="somewhere", seed=0, tell=told.append)
    assert found is not None
    assert told == []
    assert (found.n, found.rate, found.images) == (120, 0.05, "somewhere")
    assert 0.85 < is_spared(more.classifier, more.defended, found).mean() < 1
    assert spare_of(networks, seen(networks, others[:18]), others, ATTACK, source="", seed=0, tell=print) is None


def test_a_purifier_that_changes_clean_images_as_much_as_attacked_ones_spares_none(others: Split) -> None:
    adaptive, told = Networks.load(open_run("fashion-mnist-adaptive")), list[str]()
    calm = seen(adaptive, others[:120])
    assert spare_of(adaptive, calm, others[120:180], ATTACK, source="", seed=0, tell=told.append) is None
    (message,) = told
    counts = re.fullmatch(
        r"no --spare-clean: of 60 images attacked until the classifier errs (\d+) would be right with it, "
        r"(\d+) are without; .*",
        message,
    )
    assert counts is not None
    assert 3 * int(counts[1]) < int(counts[2])
    assert int(counts[2]) > 40


def test_thresholds_are_those_of_both(networks: Networks, others: Split) -> None:
    found = thresholds_of(networks, others[:100], others[100:120], ATTACK, source="here", seed=0, tell=print)
    assert (found.suspicion and found.suspicion.n, found.spare and found.spare.n) == (100, 100)
    none = thresholds_of(networks, others[:0], others[100:120], ATTACK, source="here", seed=0, tell=print)
    assert (none.suspicion, none.spare) == (None, None)


def test_benign_changes_are_of_severities_1_to_3_in_turn(others: Split) -> None:
    few = others[:6]
    found = changed(few, "contrast", seed=0)
    assert torch.equal(found.labels, few.labels)
    spread = found.images.float().flatten(1).std(1) / few.images.float().flatten(1).std(1)
    torch.testing.assert_close(spread, torch.tensor([0.75, 0.5, 0.4] * 2), rtol=0, atol=0.01)
    noise, again, other = (changed(few, "gaussian_noise", seed=seed).images for seed in (0, 0, 1))
    assert torch.equal(noise, again)
    assert not torch.equal(noise, other)
