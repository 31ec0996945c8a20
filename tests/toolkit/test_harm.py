"""A purifier that is worse than none is told of: by the training, with exit code 1, and by the export."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from helpers.tiny import SIDE, images_for, linear
from purify_edge.errors import InputError
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.splits import Split
from purify_toolkit.evaluate.accuracy import AGREEMENT
from purify_toolkit.networks.answers import answers_of, right
from purify_toolkit.networks.user_classifier import check_classifier
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.train.cli import main as train
from purify_toolkit.train.harm import Paired, harm_of
from purify_toolkit.train.stages import Validation

ATTACK = PGD(epsilon=0.1, steps=5, relative_step=0.25)


class Oracle(nn.Module):
    """Gives an attacked image back as it was, for it knows them all."""

    def __init__(self, known: Split) -> None:
        super().__init__()
        self.known = (known.images / 255).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]`, the same shape."""
        return self.known[torch.cdist(x.flatten(1), self.known).argmin(1)].reshape(x.shape)


class Blank(nn.Module):
    """Takes everything away."""

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]`, the same shape."""
        return x * 0


@pytest.fixture(scope="module")
def validation() -> Validation:
    classifier = linear()
    return Validation(classifier, images_for(classifier, 200), ATTACK, torch.device("cpu"))


def test_a_good_purifier_does_no_harm(validation: Validation) -> None:
    assert list(harm_of(Oracle(validation.split), validation, max_clean_drop=0.03)) == []


def test_one_that_takes_clean_accuracy_is_told_of(validation: Validation) -> None:
    found = list(harm_of(Blank(), validation, max_clean_drop=0.03))
    assert (
        len([line for line in found if "points of clean accuracy, more than 3 (validation images: 100.0%" in line]) == 1
    )
    assert not [line for line in harm_of(Blank(), validation, max_clean_drop=1.0) if "clean accuracy" in line]
    agreement = list(harm_of(Blank(), validation, max_clean_drop=0.03, measure=AGREEMENT))
    assert any(f"points of {AGREEMENT}, more than 3" in line for line in agreement)


def test_one_that_gives_attacked_images_nothing_is_told_of(validation: Validation) -> None:
    (line,) = harm_of(nn.Identity(), validation, max_clean_drop=0.03)
    assert line.startswith("the purifier gives attacked images nothing")
    assert "n = 200" in line


def test_few_images_that_gain_a_little_are_no_harm() -> None:
    """Of 20 attacked images 4 are right again: too few to prove anything, and nothing to be refused for."""
    classifier = linear()
    split = images_for(classifier, 20)
    few = Validation(classifier, split, ATTACK, torch.device("cpu"))
    assert list(harm_of(Oracle(split[:4]), few, max_clean_drop=1.0)) == []


def test_a_difference_that_chance_explains_is_none() -> None:
    right, wrong = np.ones(20, bool), np.zeros(20, bool)
    one_lost = Paired(right, np.append(right[1:], False))
    assert one_lost.drop == pytest.approx(0.05)
    assert not one_lost.is_worse
    assert Paired(right, wrong).is_worse
    assert not Paired(wrong, right).is_worse


def test_a_training_that_ends_in_harm_ends_with_1_and_says_what_to_change(
    small_data: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    command = [str(recipe_file), "--data", str(small_data), "--out", str(out), "--limit", "100"]
    done = CliRunner().invoke(train, command)
    assert done.exit_code == (1 if RunFolder(out).harm else 0), done.stderr
    monkeypatch.setattr("purify_toolkit.train.train.harm_of", lambda *_, **options: [f"too bad: {options}"])
    done = CliRunner().invoke(train, [*command, "--resume", "--max-clean-drop", "0.07"])
    assert done.exit_code == 1
    assert "Error: too bad: {'max_clean_drop': 0.07}" in done.stderr
    assert "Do not use this purifier. Look at" in done.stderr
    assert json.loads((out / "metrics.json").read_text())["harm"] == RunFolder(out).harm
    assert len(done.stdout.splitlines()) > 3  # the evaluation is told all the same


class Fragile(nn.Module):
    """A classifier that divides by 0 for a black image."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = linear()

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` -> logits `[N, 3]`."""
        return self.linear(x / x.mean((1, 2, 3), keepdim=True))


def test_an_image_without_an_answer_is_right_for_nobody_and_refused_before_the_training() -> None:
    network = Fragile()
    images = torch.randint(1, 256, (60, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images[40] = 0
    labels = network(images / 255).argmax(1)  # of NaN torch takes class 0
    split = Split(images, labels)
    found = answers_of(network, split, torch.device("cpu"))
    assert found.tolist() == [-1 if place == 40 else label for place, label in enumerate(labels.tolist())]
    assert not right(network, images / 255, labels)[40]
    with pytest.raises(InputError, match="not finite for 1 of 60 validation images; leave such images out"):
        check_classifier(network, split, ("a", "b", "c"), torch.device("cpu"))


def test_a_loss_that_is_not_finite_ends_the_training(small_data: Path, recipe_file: Path, tmp_path: Path) -> None:
    text = recipe_file.read_text()
    recipe_file.write_text(text.replace("learning_rate = 1e-2", "learning_rate = 1e30"))
    done = CliRunner().invoke(train, [str(recipe_file), "--data", str(small_data), "--out", str(tmp_path / "run")])
    assert done.exit_code == 2, done.stderr
    assert "classifier: the loss is not finite" in done.stderr
