"""What every attack owes: images checked, results in range, the same for the same seed, nothing else touched."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.shipped import Shipped, generator, open_shipped
from purify_edge.errors import InputError
from purify_toolkit.attacks.base import Attack, choose
from purify_toolkit.attacks.carlini_wagner import CarliniWagner
from purify_toolkit.attacks.corruptions import Corruption, Printed
from purify_toolkit.attacks.gradient import FGSM, PGD, margin
from purify_toolkit.attacks.libraries import AutoAttack, HopSkipJump, Square
from purify_toolkit.attacks.norms import L1, L2, LINF
from purify_toolkit.attacks.search import GaussianNoise, RandomSearch, UniformNoise
from purify_toolkit.attacks.spatial import RotateTranslate
from purify_toolkit.attacks.unseen import Colours, Patch, Universal

LIMITS: dict[str, Any] = {"steps": 2, "relative_step": 0.5, "epsilon": 0.05}

ATTACKS: dict[str, Attack] = {
    "pgd": PGD(**LIMITS),
    "pgd-l2": PGD(norm=L2, loss=margin, restarts=2, samples=2, **LIMITS),
    "pgd-l1": PGD(norm=L1, **LIMITS | {"epsilon": 2.0}),
    "fgsm": FGSM(epsilon=0.05),
    "universal": Universal(epsilon=0.05, steps=2),
    "patch": Patch(area=0.05, steps=2),
    "colours": Colours(tries=2),
    "printed": Printed(attack=FGSM(epsilon=0.05)),
    "carlini-wagner": CarliniWagner(steps=10, searches=2, rate=0.1),
    "random-search": RandomSearch(epsilon=0.05, queries=5),
    "rotate-translate": RotateTranslate(degrees=20.0, shift=0.1, tries=2),
    "autoattack": AutoAttack(epsilon=0.05, classes=10, attacks=("apgd-ce",)),
    "square": Square(epsilon=0.05, queries=50),
    "hop-skip-jump": HopSkipJump(queries=50),
    "uniform": UniformNoise(epsilon=0.05),
    "gaussian": GaussianNoise(std=0.05),
    "corruption": Corruption(name="shot_noise"),
}
LINF_BALL = {"pgd", "fgsm", "universal", "random-search", "autoattack", "square", "uniform"}
UNSEEDED = {"fgsm", "carlini-wagner"}


@pytest.fixture(scope="module")
def trainable() -> Shipped:
    """A classifier whose parameters ask for gradients."""
    opened = open_shipped()
    opened.classifier.requires_grad_(True)
    return opened


@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_is_seeded_stays_in_range_and_touches_nothing_else(name: str, trainable: Shipped) -> None:
    model, images, labels = trainable.classifier, trainable.images[:4], trainable.labels[:4]
    before, weights = images.clone(), [parameter.clone() for parameter in model.parameters()]
    found = ATTACKS[name](model, images, labels, generator=generator(1))
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.equal(found, images)
    assert torch.equal(found, ATTACKS[name](model, images, labels, generator=generator(1)))
    if name in LINF_BALL:
        assert LINF.size(found - images).max() <= 0.05 + 1e-6
    if name == "pgd-l2":
        assert L2.size(found - images).max() <= 0.05 + 1e-6
    if name == "pgd-l1":
        assert L1.size(found - images).max() <= 2.0 + 1e-5
    if name not in UNSEEDED:
        assert not torch.equal(found, ATTACKS[name](model, images, labels, generator=generator(2)))
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert all(map(torch.equal, weights, model.parameters()))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("value", [1.1, -0.1, float("nan")])
def test_images_outside_the_range_are_refused(name: str, value: float, shipped: Shipped) -> None:
    images = shipped.images[:1].clone()
    images[0, 0, 3, 3] = value
    with pytest.raises(InputError, match=r"images must lie in \[0, 1\], got"):
        ATTACKS[name](shipped.classifier, images, shipped.labels[:1], generator=generator(0))


@pytest.mark.parametrize("name", ATTACKS)
def test_no_model_is_asked_about_no_image(name: str, shipped: Shipped) -> None:
    """Some networks fail at an empty batch."""

    def model(images: Tensor) -> Tensor:
        assert len(images)
        return shipped.classifier(images)

    none = shipped.images[:0]
    assert ATTACKS[name](model, none, shipped.labels[:0], generator=generator()).shape == none.shape


def test_an_image_without_a_batch_is_refused(shipped: Shipped) -> None:
    with pytest.raises(InputError, match=r"images must be \[N, C, H, W\], got \[1, 28, 28\]"):
        FGSM(epsilon=0.1)(shipped.classifier, shipped.images[0], shipped.labels[:1], generator=generator())


def test_attacks_work_where_gradients_are_switched_off(shipped: Shipped) -> None:
    with torch.no_grad():
        found = FGSM(epsilon=0.1)(shipped.classifier, shipped.images[:4], shipped.labels[:4], generator=generator())
        near = ATTACKS["carlini-wagner"](
            shipped.classifier, shipped.images[:4], shipped.labels[:4], generator=generator()
        )
    assert not torch.equal(found, shipped.images[:4])
    assert not torch.equal(near, shipped.images[:4])


def test_the_choice_is_made_image_by_image() -> None:
    ones, zeros = torch.ones(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    chosen = choose(torch.tensor([True, False]), ones, zeros)
    assert torch.equal(chosen, torch.cat([ones[:1], zeros[1:]]))


@pytest.fixture(scope="module")
def colour() -> tuple[nn.Module, Tensor, Tensor]:
    """A classifier and images in colour, which lie in memory as an evaluation has them: channels last."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
    images = torch.rand(2, 3, 8, 8, generator=generator(0)).contiguous(memory_format=torch.channels_last)
    return model.to(memory_format=torch.channels_last), images, model(images).argmax(1)


BY_GRADIENT = ("apgd-ce", "fab-t")
AUTOATTACK_BY_GRADIENT: dict[str, Attack] = {
    f"autoattack by gradient, {norm.name}": AutoAttack(epsilon=0.002, norm=norm, classes=10, attacks=BY_GRADIENT)
    for norm in (LINF, L2)
}


@pytest.mark.parametrize("name", [*ATTACKS, *AUTOATTACK_BY_GRADIENT])
def test_colours_that_lie_last_in_memory_make_no_difference(
    name: str, colour: tuple[nn.Module, Tensor, Tensor]
) -> None:
    (model, images, labels), attack = colour, (ATTACKS | AUTOATTACK_BY_GRADIENT)[name]
    assert not images.is_contiguous()
    found = attack(model, images, labels, generator=generator(1))
    plain = attack(model, images.contiguous(), labels, generator=generator(1))
    torch.testing.assert_close(found, plain, rtol=0, atol=0.05)


@pytest.mark.parametrize("name", ATTACKS)
def test_settings_are_frozen_and_told(name: str) -> None:
    attack = ATTACKS[name]
    setting = next(iter(vars(attack)))
    with pytest.raises(FrozenInstanceError):
        setattr(attack, setting, 1)
    assert "object at" not in str(attack)
    assert attack.size is None or f"{attack.size[0]} {attack.size[1]:g}" in str(attack)
