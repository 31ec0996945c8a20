import copy
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from helpers.small_data import ADAPTIVE, VALIDATION
from purify_edge.errors import InputError
from purify_toolkit.data.augmentation import augment, random_crops
from purify_toolkit.data.batch import Batch
from purify_toolkit.data.datasets import load_data
from purify_toolkit.device.processes import Processes
from purify_toolkit.recipe import parse_recipe
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.train import stages as stages_module
from purify_toolkit.train.stages import Stages


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


def test_images_are_varied_where_they_are() -> None:
    images = torch.zeros(32, 3, 12, 10, dtype=torch.uint8, device="meta")
    assert augment(images, batch(), shift=4, cutout=4).device.type == "meta"


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


def test_a_random_part_of_each_image_is_scaled_to_the_whole() -> None:
    """Where pixels say their place, the corners of a crop say which part it was."""
    rows = torch.arange(40.0)[:, None].expand(40, 60)
    columns = torch.arange(60.0).expand(40, 60)
    image = torch.stack([6 * rows, 4 * columns]).to(torch.uint8)
    found = random_crops(image.expand(300, -1, -1, -1), smallest=0.5, generator=torch.Generator().manual_seed(3))
    assert found.shape == (300, 2, 40, 60)
    assert found.dtype == torch.uint8
    heights = (found[:, 0, -1, 0].float() - found[:, 0, 0, 0]) / 6 + 1
    widths = (found[:, 1, 0, -1].float() - found[:, 1, 0, 0]) / 4 + 1
    assert heights.min() == pytest.approx(20, abs=1)
    assert heights.max() == pytest.approx(40, abs=1)
    assert torch.allclose(widths, 1.5 * heights, atol=2)  # in its proportions
    assert found[:, 0, 0, 0].max() > 6 * 15  # from anywhere, to the lower end
    assert found[:, 1, 0, 0].max() > 4 * 25
    assert len(found.flatten(1).unique(dim=0)) > 250
    assert torch.equal(random_crops(image[None], smallest=1.0, generator=torch.Generator())[0], image)


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
