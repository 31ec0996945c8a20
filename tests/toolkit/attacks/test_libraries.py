"""The libraries' attacks: what is asked of them, what comes back, what they leave alone."""

import logging
import sys
import warnings

import numpy as np
import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from helpers.shipped import Shipped, generator, hyperplane
from purify_edge.errors import InputError, MissingError
from purify_edge.shell.command import EXTRAS
from purify_toolkit.attacks.base import Attack, AttackWarning, numpy_model
from purify_toolkit.attacks.libraries import NAMES, STANDARD, AutoAttack, HopSkipJump, Square
from purify_toolkit.attacks.norms import L2, LINF, Norm
from purify_toolkit.networks.answers import Model


def small_model(classes: int) -> nn.Module:
    """A random network of a few units, sure of its answers."""
    with torch.random.fork_rng():
        torch.manual_seed(classes)
        last = nn.Linear(4 * 36, classes)
        network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), last)
    last.weight.data *= 10
    last.bias.data *= 10
    return network.eval()


def small_images(model: nn.Module, count: int = 12) -> tuple[Tensor, Tensor]:
    """Images and the classes that the model gives them."""
    images = torch.rand(count, 1, 8, 8, generator=generator())
    return images, model(images).argmax(1)


def told_of(attack: Attack, model: Model, images: Tensor, labels: Tensor) -> tuple[Tensor, list[str]]:
    """What the attack finds, and what it warns of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = attack(model, images, labels, generator=generator())
    return found, [str(warning.message) for warning in told if warning.category is AttackWarning]


@pytest.mark.parametrize(("classes", "norm"), [(2, LINF), (3, L2), (4, LINF), (5, L2), (10, LINF)])
def test_autoattack_works_with_any_number_of_classes(classes: int, norm: Norm) -> None:
    model = small_model(classes)
    images, labels = small_images(model, 3)
    epsilon = 0.02 if norm is LINF else 0.1
    attacks = ("apgd-ce", "apgd-t", "fab-t")  # some of the images survive each, so that all of them run
    attack = AutoAttack(epsilon=epsilon, norm=norm, classes=classes, attacks=attacks)
    names = {2: ("apgd-ce", "fab-t"), 3: ("apgd-ce", "apgd-dlr", "fab-t")}
    assert attack.possible == names.get(classes, attacks)
    found, told = told_of(attack, model, images, labels)
    assert not [text for text in told if "class" in text]
    changed = norm.size(found - images)
    assert changed.max() <= epsilon + 1e-6
    fell = model(found).argmax(1) != labels
    assert torch.equal(fell, changed > 0)
    if classes < 4:  # more take long
        assert torch.equal(told_of(attack, model, images, labels)[0], found)


@pytest.mark.parametrize("attack", NAMES)
@pytest.mark.parametrize("classes", [2, 3])
def test_each_attack_alone_has_a_variant_for_two_and_three_classes(attack: str, classes: int) -> None:
    model = small_model(classes)
    images, labels = small_images(model, 4)
    alone = AutoAttack(epsilon=0.5, classes=classes, attacks=(attack,), batch_size=3)
    assert len(alone.possible) == 1
    assert (model(told_of(alone, model, images, labels)[0]).argmax(1) != labels).all()


def test_what_the_log_says_of_a_model_is_a_warning_and_not_printed(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = small_model(4)
    images, labels = small_images(model, 6)

    def objections(suspect: object) -> str:
        attack = AutoAttack(epsilon=0.01, classes=4, attacks=("apgd-ce",), batch_size=2)
        _, told = told_of(attack, suspect, images, labels)
        assert len(set(told)) == len(told)
        return " | ".join(told)

    def dynamic(x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.detach().requires_grad_(True)
            torch.autograd.grad(model(y).sum(), y)
        return model(x)

    assert objections(model) == ""
    assert "randomized defense" in objections(lambda x: model(x + 0.1 * torch.randn(x.shape)))
    assert "probability distribution" in objections(lambda x: model(x).softmax(1))
    assert "dynamic defense" in objections(dynamic)
    assert objections(model) == ""
    logger = logging.getLogger("auto-attack")
    assert logger.propagate
    assert not logger.handlers
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert not caplog.records


def test_zero_gradients_are_reported() -> None:
    model = small_model(4)
    images, labels = small_images(model, 6)

    def flat(x: Tensor) -> Tensor:
        return model((x * 7).round() / 7)

    labels = flat(images).argmax(1)
    _, told = told_of(AutoAttack(epsilon=0.01, classes=4, attacks=("apgd-t",)), flat, images, labels)
    assert any("zero gradient" in text for text in told)
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("norm", [LINF, L2], ids=["Linf", "L2"])
def test_the_settings_are_those_of_the_standard_version(norm: Norm) -> None:
    model = small_model(10)
    standard = pyautoattack.AutoAttack(
        model, eps=0.1, norm=norm.name, seed=3, device=torch.device("cpu"), version="standard"
    )
    ours = AutoAttack(epsilon=0.1, norm=norm, classes=10)._ensemble(model, 3, torch.device("cpu"))
    for part in ("apgd", "apgd_targeted", "fab", "square"):
        settings, expected = (
            {name: value for name, value in vars(getattr(one, part)).items() if isinstance(value, int | float | str)}
            for one in (ours, standard)
        )
        assert settings == expected
    assert tuple(ours.attacks_to_run) == tuple(standard.attacks_to_run)


@pytest.mark.parametrize("attacks", [STANDARD, ("apgd-ce",)], ids=["all", "one"])
def test_a_size_of_zero_and_no_images_at_all_change_nothing(attacks: tuple[str, ...]) -> None:
    model = small_model(4)
    images, labels = small_images(model, 2)
    found, _ = told_of(AutoAttack(epsilon=0.0, classes=4, attacks=attacks), model, images, labels)
    assert torch.equal(found, images)
    whole = AutoAttack(epsilon=0.1, classes=4, attacks=attacks)
    for attack in (whole, Square(epsilon=0.1, queries=5), HopSkipJump(queries=5)):
        assert attack(model, images[:0], labels[:0], generator=generator()).shape == (0, 1, 8, 8)


def test_wrong_requests_are_refused() -> None:
    model = small_model(4)
    images, labels = small_images(model, 2)
    with pytest.raises(InputError, match="no attack apgd-x; AutoAttack's are apgd-ce, apgd-t"):
        AutoAttack(epsilon=0.1, classes=4, attacks=("apgd-x",))
    with pytest.raises(InputError, match=r"expected logits \[1, 7\] for one image, the model gives \[1, 4\]"):
        AutoAttack(epsilon=0.1, classes=7)(model, images, labels, generator=generator(0))
    with pytest.raises(InputError, match="two classes at least, got 1"):
        AutoAttack(epsilon=0.1, classes=1)


def test_square_attacks_a_function_of_arrays() -> None:
    model = small_model(4)
    images, labels = small_images(model)

    def function(array: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(array)).numpy()

    found = Square(epsilon=0.3, queries=100)(numpy_model(function), images, labels, generator=generator(1))
    assert (model(found).argmax(1) != labels).sum() >= 6
    assert torch.equal(found, Square(epsilon=0.3, queries=100)(model, images, labels, generator=generator(1)))
    assert not torch.equal(found, Square(epsilon=0.3, queries=100)(model, images, labels, generator=generator(2)))
    assert LINF.size(found - images).max() <= 0.3 + 1e-6


@pytest.mark.parametrize("norm", [LINF, L2], ids=["Linf", "L2"])
def test_hop_skip_jump_nears_the_hyperplane(norm: Norm) -> None:
    """Two classes told apart by a weighted sum: the distance is |side| over the dual norm of the weights."""
    weight = torch.randn(1, 1, 4, 4, generator=generator(1))
    images = 0.4 + 0.2 * torch.rand(6, 1, 4, 4, generator=generator(2))
    model = hyperplane(weight, -0.52 * float(weight.sum()))
    labels = model(images).argmax(1)
    found = HopSkipJump(norm=norm, queries=4000)(model, images, labels, generator=generator(0))
    dual = weight.norm() if norm is L2 else weight.abs().sum()
    distance, least = norm.size(found - images), model(images)[:, 0].abs() / dual
    assert (model(found).argmax(1) != labels).all()
    assert (distance >= 0.99 * least).all()
    assert (distance <= 1.2 * least + 1e-3).all(), (distance, least)


def test_hop_skip_jump_keeps_to_its_queries_and_to_the_images_that_need_it(shipped: Shipped) -> None:
    asked = [0]

    def counted(x: Tensor) -> Tensor:
        asked[0] += len(x)
        return shipped.classifier(x)

    images, labels = shipped.images[:12], shipped.labels[:12].clone()
    labels[3] = (labels[3] + 1) % 10  # misclassified as it is
    found = HopSkipJump(queries=1000)(counted, images, labels, generator=generator(0))
    assert asked[0] <= 1.1 * 1000 * len(images)
    assert torch.equal(found[3], images[3])
    assert (shipped.classifier(found).argmax(1) != labels).all()
    alone = HopSkipJump(queries=9)(
        lambda x: torch.eye(2)[torch.zeros(len(x)).long()], images, labels * 0, generator=generator(0)
    )
    assert torch.equal(alone, images)  # a model of one class offers no start


def test_without_foolbox_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foolbox", None)
    model = small_model(4)
    images, labels = small_images(model, 2)
    with pytest.raises(MissingError, match=r"needs 'attacks': pip install 'purify-edge\[attacks\]'") as caught:
        HopSkipJump(queries=10)(model, images, labels, generator=generator(0))
    assert caught.value.exit_code == 3
    assert EXTRAS["foolbox"] == "attacks"
    assert EXTRAS["pyautoattack"] == "train"


def test_parameters_modes_and_the_global_generator_are_left_alone() -> None:
    """FAB goes backward through the model; a parameter that asks for gradients must not be given one."""
    model = small_model(5).train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    images, labels = small_images(model, 3)
    state, before = torch.random.get_rng_state(), images.clone()
    AutoAttack(epsilon=0.001, classes=5)(model, images, labels, generator=generator(0))
    Square(epsilon=0.01, queries=5)(model, images, labels, generator=generator(0))
    HopSkipJump(queries=10)(model, images, labels, generator=generator(0))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(images, before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
