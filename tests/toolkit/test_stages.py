import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from helpers.small_data import ADAPTIVE, VALIDATION
from purify_toolkit import stages as stages_module
from purify_toolkit.augmentation import augment, cutmix
from purify_toolkit.batch import Batch
from purify_toolkit.datasets import load_data
from purify_toolkit.errors import InputError
from purify_toolkit.pixels import to_float
from purify_toolkit.processes import Processes
from purify_toolkit.recipe import parse_recipe
from purify_toolkit.run_folder import RunFolder
from purify_toolkit.stages import Stages


@pytest.fixture
def stages(trained: RunFolder, small_data: Path) -> Stages:
    return Stages(
        trained,
        load_data("fashion-mnist", small_data, validation_size=VALIDATION),
        processes=Processes(torch.device("cpu")),
    )


def batch(count: int = 32) -> Batch:
    return Batch(torch.arange(count), torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))


def record_loaded(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The trained networks that a stage will load from now on: the very objects that it works with."""
    loaded: list[nn.Module] = []
    load = RunFolder._load

    def recording(run: RunFolder, name: str, make: Any) -> nn.Module:
        loaded.append(load(run, name, make))
        return loaded[-1]

    monkeypatch.setattr(RunFolder, "_load", recording)
    return loaded


@pytest.mark.parametrize(
    ("name", "losses"),
    [
        ("classifier", ["cross_entropy"]),
        ("adversarial_teacher", ["reconstruction", "guidance"]),
        ("normal_teacher", ["reconstruction"]),
        ("student", ["imitation", "reconstruction", "guidance"]),
        ("adaptive student", ["imitation", "reconstruction", "guidance", "labels"]),
    ],
)
def test_each_stage_has_its_losses_and_trains_its_own_network_alone(
    stages: Stages, name: str, losses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("adaptive"):
        stages._recipe, name = parse_recipe(ADAPTIVE, source="adaptive"), "student"
    loaded = record_loaded(stages, monkeypatch)
    stage = stages.build(name)
    assert len(loaded) == {"classifier": 0, "student": 3}.get(name, 1)
    before = [copy.deepcopy(network.state_dict()) for network in loaded]
    stage.network.train()
    found = stage.losses(batch())
    assert list(found) == losses
    optimizer = torch.optim.SGD(stage.network.parameters(), lr=0.1)
    torch.stack(list(found.values())).sum().backward()
    optimizer.step()
    assert all(parameter.grad is not None for parameter in stage.network.parameters())
    for network, state in zip(loaded, before, strict=True):  # batch normalisation's statistics included
        assert all(parameter.grad is None for parameter in network.parameters())
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_the_adversarial_teacher_sees_the_pool_and_the_normal_one_has_none(stages: Stages) -> None:
    adversarial, normal = stages.build("adversarial_teacher"), stages.build("normal_teacher")
    assert normal.pool is None
    assert adversarial.pool is not None
    before = adversarial.losses(batch())["reconstruction"].item()
    adversarial.pool.examples.fill_(255)
    assert adversarial.losses(batch())["reconstruction"].item() != before


def test_the_student_sees_adversarial_images_in_the_stated_part_of_a_batch(stages: Stages) -> None:
    student = stages.build("student")
    student.network.eval()
    assert student.pool is not None
    seen: list[torch.Tensor] = []
    student.network.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    student.pool.examples.fill_(255)
    student.losses(batch())
    white = (seen[0] == 1).flatten(1).all(dim=1)
    assert white.tolist() == [True] * 16 + [False] * 16


def test_validation_judges_the_purifier(stages: Stages) -> None:
    figures = stages.build("student").validate()
    assert set(figures) == {"accuracy_clean", "accuracy_adversarial", "l1_clean"}
    assert 0 <= figures["accuracy_adversarial"] <= 1
    assert 0 < figures["l1_clean"] < 1


def test_images_are_shifted_and_mirrored_each_on_its_own() -> None:
    image = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    image[0, 0, 10, 5] = 200
    found = augment(image.expand(500, -1, -1, -1), batch(500))
    assert found.shape == (500, 1, 28, 28)
    assert (found.flatten(1).sum(dim=1) == 200).all()
    places = {tuple(place) for place in found[:, 0].nonzero()[:, 1:].tolist()}
    expected = {(10 + y, column + x) for y in range(-2, 3) for x in range(-2, 3) for column in (5, 22)}
    assert places == expected
    further = augment(image.expand(2000, -1, -1, -1), batch(2000), shift=4)
    rows = {row for row, _ in further[:, 0].nonzero()[:, 1:].tolist()}
    assert rows == set(range(6, 15))


def test_a_square_is_cut_out_of_each_image_somewhere_else() -> None:
    image = torch.full((1, 1, 12, 10), 200, dtype=torch.uint8)
    whole = augment(image.expand(900, -1, -1, -1), batch(900), shift=0)
    found = augment(image.expand(900, -1, -1, -1), batch(900), shift=0, cutout=4)
    assert (whole == 200).all()
    black = found[:, 0] == 0
    assert (black.flatten(1).sum(1) == 16).all()
    corners = {tuple(hole.nonzero()[0].tolist()) for hole in black}
    assert corners == {(row, column) for row in range(9) for column in range(7)}
    for hole in black[:50]:
        row, column = hole.nonzero()[0].tolist()
        assert hole[row : row + 4, column : column + 4].all()


def test_cutmix_puts_the_same_rectangle_of_another_image_into_each() -> None:
    values = torch.arange(200, dtype=torch.uint8)
    images = values.view(-1, 1, 1, 1).expand(-1, 3, 12, 10)
    shares = []
    for seed in range(50):
        of = replace(batch(200), generator=torch.Generator().manual_seed(seed))
        mixed, other, stayed = cutmix(images, of)
        foreign = mixed != images
        assert sorted(other.tolist()) == values.tolist()
        box = foreign.any(0)[0]
        moved = other != torch.arange(200)
        assert torch.equal(foreign, (moved.view(-1, 1, 1, 1) & box).expand(-1, 3, -1, -1))
        assert (mixed[:, :, box] == values[other].view(-1, 1, 1)).all()
        rows, columns = box.any(1), box.any(0)
        assert torch.equal(box, rows.view(-1, 1) & columns)
        for side in (rows, columns):
            assert int(side.sum()) == 0 or int(side.nonzero().max() - side.nonzero().min()) + 1 == int(side.sum())
        assert stayed == pytest.approx(1 - float(box.float().mean()))
        shares.append(stayed)
    assert (images == values.view(-1, 1, 1, 1)).all()
    assert min(shares) < 0.3
    assert max(shares) > 0.9


def test_a_mixed_batch_is_to_be_read_as_both_of_its_images(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(cutmix_share: float) -> tuple[torch.Tensor, nn.Module]:
        table = msgspec.structs.replace(stages._recipe.classifier, cutmix=cutmix_share)
        monkeypatch.setattr(stages, "_recipe", msgspec.structs.replace(stages._recipe, classifier=table))
        stage = stages.build("classifier")
        stage.network.load_state_dict(stages._run.load_classifier().state_dict())
        return stage.losses(batch())["cross_entropy"], stage.network

    plain, network = loss(0.0)
    found, _ = loss(1.0)
    train, of = stages._data.train[:32], batch()
    images = augment(train.images, of)
    torch.rand((), generator=of.generator)  # whether the batch is mixed
    mixed, other, stayed = cutmix(images, of)
    logits = network(to_float(mixed))
    by_hand = [torch.nn.functional.cross_entropy(logits, labels) for labels in (train.labels, train.labels[other])]
    assert found.item() == pytest.approx((stayed * by_hand[0] + (1 - stayed) * by_hand[1]).item(), rel=1e-5)
    assert found > plain  # the network is trained


@pytest.mark.parametrize("key", ["shift", "cutout"])
def test_the_classifier_is_trained_on_images_augmented_as_the_recipe_says(
    stages: Stages, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, int] = {}

    def watching(images: torch.Tensor, of: Batch, **options: int) -> torch.Tensor:
        seen.update(options)
        return augment(images, of, **options)

    monkeypatch.setattr(stages_module, "augment", watching)
    table = msgspec.structs.replace(stages._recipe.classifier, **{key: 5})
    monkeypatch.setattr(stages, "_recipe", msgspec.structs.replace(stages._recipe, classifier=table))
    stages.build("classifier").losses(batch())
    assert seen == {"shift": 2, "cutout": 0} | {key: 5}
    too_large = msgspec.structs.replace(table, **{key: 28})
    monkeypatch.setattr(stages, "_recipe", msgspec.structs.replace(stages._recipe, classifier=too_large))
    with pytest.raises(InputError, match=r"leaves nothing of images of 28 pixels; expected less"):
        stages.build("classifier")
