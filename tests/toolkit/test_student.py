"""The student's losses, its examples and what its arms leave out; on the small run's networks."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.small_data import ADAPTIVE, RECIPE, VALIDATION
from purify_edge.errors import InputError
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.attacks.norms import LINF
from purify_toolkit.data.augmentation import augment
from purify_toolkit.data.batch import Batch
from purify_toolkit.data.datasets import load_data
from purify_toolkit.data.pixels import to_float
from purify_toolkit.data.splits import Split
from purify_toolkit.device.processes import Processes
from purify_toolkit.networks.features import ClassifierFeatures
from purify_toolkit.recipe import parse_recipe
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.train.losses import feature_loss, guidance_loss, structure_loss
from purify_toolkit.train.stages import Stages, TrainingStage
from purify_toolkit.train.student import StudentLosses

COUNT = 33
Build = Callable[..., TrainingStage]


@pytest.fixture
def build(trained: RunFolder, small_data: Path, tmp_path: Path) -> Build:
    """A stage of the small run under another recipe; its network is in evaluation mode, each image on its own."""

    def build_stage(name: str, recipe: str) -> TrainingStage:
        for path in trained.path.glob("*.safetensors"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "run.json").write_text((trained.path / "run.json").read_text())
        (tmp_path / "recipe.toml").write_text(recipe)
        data = load_data("fashion-mnist", small_data, validation_size=VALIDATION)
        stage = Stages(RunFolder(tmp_path), data, processes=Processes(torch.device("cpu"))).build(name)
        stage.network.load_state_dict(RunFolder(tmp_path)._load(name, lambda: stage.network).state_dict())
        stage.network.eval().requires_grad_(True)
        return stage

    return build_stage


def train_split(folder: Path) -> Split:
    return load_data("fashion-mnist", folder, validation_size=VALIDATION).train


def batch(share: slice = slice(None), count: int = COUNT) -> Batch:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(7))
    return Batch(order, torch.Generator().manual_seed(0), torch.Generator().manual_seed(1), share)


def seen_by(stage: TrainingStage, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """What the network was last shown, and the losses."""
    seen: list[torch.Tensor] = []
    hook = stage.network.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    losses = {name: value.item() for name, value in stage.losses(batch).items()}
    hook.remove()
    return seen[-1], losses


def with_weights(recipe: str, **values: float | str) -> str:
    for name, value in values.items():
        line = next((line for line in recipe.splitlines() if line.startswith(f"{name} = ")), "[distillation]")
        written = f"{name} = {json.dumps(value)}"
        recipe = recipe.replace(line, written if line.startswith(name) else f"{line}\n{written}", 1)
    return recipe


@pytest.mark.parametrize(
    ("weights", "teachers", "losses"),
    [
        ({}, ["adversarial_teacher", "normal_teacher"], ["imitation", "reconstruction", "guidance"]),
        ({"adversarial_teacher_weight": 1.0}, ["adversarial_teacher"], ["imitation", "reconstruction", "guidance"]),
        ({"adversarial_teacher_weight": 0.0}, ["normal_teacher"], ["imitation", "reconstruction", "guidance"]),
        ({"imitation": 0.0}, [], ["reconstruction", "guidance"]),
        (
            {"second_teacher": "original"},
            ["adversarial_teacher"],
            ["imitation", "reconstruction", "guidance"],
        ),
        (
            {"adversarial_teacher_weight": 1.0, "clean_adversarial_teacher_weight": 0.0},
            ["adversarial_teacher", "normal_teacher"],
            ["imitation", "reconstruction", "guidance"],
        ),
        ({"imitation": 0.0, "classifier_guidance": 0.0}, [], ["reconstruction"]),
        (
            {"imitation": 0.0, "feature_guidance": 0.5, "structure": 0.5},
            [],
            ["reconstruction", "structure", "features", "guidance"],
        ),
    ],
)
def test_an_arm_has_the_networks_and_losses_of_its_weights(
    build: Build, tmp_path: Path, weights: dict[str, float | str], teachers: list[str], losses: list[str]
) -> None:
    recipe = with_weights(RECIPE, **weights)
    assert list(parse_recipe(recipe, source="arm").teachers) == teachers
    stage = build("student", recipe)
    assert list(stage.losses(batch())) == losses
    assert list(RunFolder(tmp_path).stages) == ["classifier", *teachers, "student"]


def test_a_lone_teacher_is_imitated_as_it_is(build: Build, trained: RunFolder, small_data: Path) -> None:
    images = train_split(small_data).images
    for weight, name in ((1.0, "adversarial_teacher"), (0.0, "normal_teacher")):
        stage = build("student", with_weights(RECIPE, adversarial_teacher_weight=weight, imitation=2.0))
        seen, losses = seen_by(stage, batch())
        shown = seen if name == "adversarial_teacher" else to_float(images[batch().indices])
        with torch.no_grad():
            expected = 2 * F.l1_loss(stage.network(seen), trained.load_teacher(name)(shown))
        assert losses["imitation"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("second", ["normal", "original"])
def test_each_teacher_may_be_imitated_where_it_is_at_home(
    build: Build, trained: RunFolder, small_data: Path, second: str
) -> None:
    recipe = with_weights(
        RECIPE, adversarial_teacher_weight=1.0, clean_adversarial_teacher_weight=0.25, second_teacher=second
    )
    stage, clean = build("student", recipe), to_float(train_split(small_data).images[batch().indices])
    seen, losses = seen_by(stage, batch())
    attacked = len(seen) // 2
    with torch.no_grad():
        adversarial = trained.load_teacher("adversarial_teacher")(seen)
        other = clean if second == "original" else trained.load_teacher("normal_teacher")(clean)
        shown = torch.cat([adversarial[:attacked], 0.25 * adversarial[attacked:] + 0.75 * other[attacked:]])
        assert losses["imitation"] == pytest.approx(F.l1_loss(stage.network(seen), shown).item(), rel=1e-5)


def test_the_optional_terms_compare_structure_and_features(build: Build, trained: RunFolder, small_data: Path) -> None:
    images = train_split(small_data).images
    stage = build("student", with_weights(RECIPE, feature_guidance=2.0, structure=3.0))
    seen, losses = seen_by(stage, batch())
    clean, features = to_float(images[batch().indices]), ClassifierFeatures(trained.load_classifier())
    with torch.no_grad():
        output = stage.network(seen)
        expected = 2 * feature_loss(features(output), features(clean))
        assert losses["structure"] == pytest.approx(3 * structure_loss(output, clean).item(), rel=1e-5)
    assert losses["features"] == pytest.approx(expected.item(), rel=1e-4)


def test_features_are_what_the_last_layer_is_given(trained: RunFolder) -> None:
    classifier = trained.load_classifier()
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    last = [layer for layer in classifier.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        features, logits = ClassifierFeatures(classifier).with_logits(images)
        torch.testing.assert_close(last(features), logits)
        torch.testing.assert_close(classifier(images), logits)
    assert not last._forward_pre_hooks
    with pytest.raises(InputError, match="feature_guidance needs a classifier with a linear or convolutional layer"):
        ClassifierFeatures(nn.Flatten())


def test_adaptive_examples_attack_the_student_in_the_ball(build: Build, trained: RunFolder, small_data: Path) -> None:
    stage = build("student", with_weights(ADAPTIVE, adversarial_fraction=1.0))
    assert stage.pool is None
    seen, _ = seen_by(stage, batch())
    split = train_split(small_data)[batch().indices]
    clean = to_float(augment(split.images, batch()))
    assert seen.min() >= 0
    assert seen.max() <= 1
    changed = (seen - clean).abs().flatten(1).amax(1)
    assert changed.max() <= 0.1 + 1e-6
    assert changed.min() > 0.05
    classifier = trained.load_classifier()
    defended = nn.Sequential(stage.network, classifier)
    grey_box = PGD(epsilon=0.1, steps=2, relative_step=0.5)(
        classifier, clean, split.labels, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        noise = 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2)).sign()
        attacked, transferred, noisy, untouched = (
            float(F.cross_entropy(defended(x), split.labels))
            for x in (seen, grey_box, (clean + noise).clamp(0, 1), clean)
        )
    harm = attacked - untouched
    assert harm > 2 * max(transferred - untouched, noisy - untouched, 0.01), (attacked, transferred, noisy, untouched)


def test_the_adaptive_part_of_a_batch_is_the_stated_one(build: Build, small_data: Path) -> None:
    seen, _ = seen_by(build("student", ADAPTIVE), batch())
    split = train_split(small_data)[batch().indices]
    same = (seen == to_float(augment(split.images, batch()))).flatten(1).all(1)
    assert same.tolist() == [False] * 16 + [True] * 17


@pytest.mark.parametrize("decay", [False, True])
def test_the_steps_of_the_adaptive_attack_shrink_where_told(
    build: Build, trained: RunFolder, small_data: Path, decay: bool
) -> None:
    recipe = with_weights(ADAPTIVE, adversarial_fraction=1.0) + f"decay = {str(decay).lower()}\n"
    stage = build("student", recipe)
    seen, _ = seen_by(stage, batch())
    split = train_split(small_data)[batch().indices]
    clean = to_float(augment(split.images, batch()))
    expected = PGD(epsilon=0.1, steps=2, relative_step=0.5, decay=decay)(
        nn.Sequential(stage.network, trained.load_classifier()),
        clean,
        split.labels,
        start=LINF.start(clean, 0.1, batch().attack_generator),
        generator=batch().attack_generator,
    )
    assert (seen - expected).abs().max() < 1e-6


def test_the_labels_term_is_the_weighted_cross_entropy(build: Build, trained: RunFolder, small_data: Path) -> None:
    stage = build("student", with_weights(ADAPTIVE, labels=3.0))
    seen, losses = seen_by(stage, batch())
    labels = train_split(small_data).labels[batch().indices]
    with torch.no_grad():
        expected = 3 * F.cross_entropy(trained.load_classifier()(stage.network(seen)), labels)
    assert list(losses) == ["imitation", "reconstruction", "guidance", "labels"]
    assert losses["labels"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_classifiers_labels_are_smoothed_as_told(build: Build, small_data: Path, smoothing: float) -> None:
    recipe = RECIPE.replace("[classifier]\n", f"[classifier]\nlabel_smoothing = {smoothing}\n")
    stage = build("classifier", recipe)
    seen, losses = seen_by(stage, batch())
    labels = train_split(small_data).labels[batch().indices]
    with torch.no_grad():
        logs = F.log_softmax(stage.network(seen), dim=1)
    true = -logs.gather(1, labels[:, None]).mean()
    assert losses["cross_entropy"] == pytest.approx(((1 - smoothing) * true - smoothing * logs.mean()).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("classifier", RECIPE),
        ("adversarial_teacher", RECIPE),
        ("normal_teacher", RECIPE),
        ("student", RECIPE),
        ("student", ADAPTIVE),
    ],
)
@pytest.mark.parametrize("count", [2, 3])
def test_the_shares_of_a_batch_make_up_the_batch(build: Build, name: str, recipe: str, count: int) -> None:
    """Their images are those of the whole, attacked and augmented alike; their losses' weighted mean is the whole's."""
    stage = build(name, recipe)
    if stage.pool is not None:
        stage.pool.examples = stage.pool.examples.flip(2)
    whole, losses = seen_by(stage, batch())
    shares = [slice(index, None, count) for index in range(count)]
    found = dict.fromkeys(losses, 0.0)
    for share in shares:
        seen, part = seen_by(stage, batch(share))
        torch.testing.assert_close(seen, whole[share], rtol=0, atol=1e-6)
        for key, value in part.items():
            found[key] += value * len(seen) / COUNT
    assert found == pytest.approx(losses, rel=1e-5)


def test_frozen_networks_look_again_only_at_examples_that_were_made_anew(build: Build, trained: RunFolder) -> None:
    """The second time the losses are the same, and no teacher is asked; later the adversarial one, for what is new."""
    stage = build("student", RECIPE)
    assert stage.pool is not None
    list(stage.pool.refresh(stage.pool.due(0, batch().indices), torch.Generator().manual_seed(0)))
    losses = stage.losses
    assert isinstance(losses, StudentLosses)
    asked: dict[str, int] = dict.fromkeys(losses.teachers, 0)
    for name, teacher in losses.teachers.items():
        teacher.register_forward_hook(
            lambda module, inputs, output, name=name: asked.update({name: asked[name] + len(inputs[0])})
        )
    first = {name: value.item() for name, value in losses(batch()).items()}
    assert asked == {"adversarial_teacher": COUNT, "normal_teacher": COUNT}
    assert {name: value.item() for name, value in losses(batch()).items()} == pytest.approx(first, rel=1e-6)
    assert asked == {"adversarial_teacher": COUNT, "normal_teacher": COUNT}
    due = stage.pool.due(1, batch().indices)
    list(stage.pool.refresh(due, torch.Generator().manual_seed(1)))
    attacked = batch().indices[: round(0.5 * COUNT)]
    renewed = int(torch.isin(attacked, due).sum())
    assert 0 < renewed < len(attacked)
    again = losses(batch())["imitation"].item()
    assert asked == {"adversarial_teacher": COUNT + renewed, "normal_teacher": COUNT}
    fresh = build("student", RECIPE)
    assert fresh.pool is not None
    fresh.pool.examples.copy_(stage.pool.examples)
    assert again == pytest.approx(fresh.losses(batch())["imitation"].item(), rel=1e-6)


def test_a_crop_is_compared_with_the_classifiers_answer_to_it(build: Build, trained: RunFolder) -> None:
    stage = build("student", with_weights(RECIPE, imitation=0.0).replace("[attack]", "[attack]\ncrop = 0.5"))
    assert stage.pool is not None
    classifier, count = trained.load_classifier(), round(0.5 * COUNT)
    for epoch in (0, 1):  # the answers are made anew with the crops
        list(stage.pool.refresh(stage.pool.due(epoch, batch().indices), torch.Generator().manual_seed(epoch)))
        seen, losses = seen_by(stage, batch())
        clean = to_float(stage.pool.images[batch().indices])
        assert torch.equal(seen[count:], clean[count:])
        with torch.no_grad():
            output = stage.network(seen)
            guidance = guidance_loss(classifier(output), classifier(clean))
        assert losses["guidance"] == pytest.approx(0.5 * guidance.item(), rel=1e-4)
        assert losses["reconstruction"] == pytest.approx(F.l1_loss(output, clean).item(), rel=1e-4)


def test_the_adversarial_teacher_restores_the_crop_that_was_attacked(build: Build) -> None:
    stage = build("adversarial_teacher", RECIPE.replace("[attack]", "[attack]\ncrop = 0.5"))
    assert stage.pool is not None
    list(stage.pool.refresh(stage.pool.due(0, batch().indices), torch.Generator().manual_seed(0)))
    seen, losses = seen_by(stage, batch())
    assert torch.equal(seen, to_float(stage.pool.examples[batch().indices]))
    with torch.no_grad():
        expected = F.l1_loss(stage.network(seen), to_float(stage.pool.images[batch().indices]))
    assert losses["reconstruction"] == pytest.approx(expected.item(), rel=1e-4)
