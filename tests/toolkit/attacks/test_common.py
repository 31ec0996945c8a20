"""What every attack owes: images checked, results in range, the same for the same seed, nothing else touched."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from helpers.shipped import Shipped, generator, open_shipped
from purify_edge.errors import InputError
from purify_toolkit.attacks.base import choose
from purify_toolkit.attacks.carlini_wagner import carlini_wagner_l2
from purify_toolkit.attacks.corruptions import CORRUPTIONS
from purify_toolkit.attacks.gradient import fgsm, margin, pgd
from purify_toolkit.attacks.libraries import autoattack, hop_skip_jump, square
from purify_toolkit.attacks.norms import L2, LINF
from purify_toolkit.attacks.search import gaussian_noise, random_search, uniform_noise
from purify_toolkit.attacks.spatial import rotate_translate

Attack = Callable[[nn.Module, Tensor, Tensor, int], Tensor]

LIMITS = {"steps": 2, "relative_step": 0.5, "epsilon": 0.05}

ATTACKS: dict[str, Attack] = {
    "pgd": lambda m, x, y, seed: pgd(m, x, y, generator=generator(seed), **LIMITS),
    "pgd-l2": lambda m, x, y, seed: pgd(
        m, x, y, generator=generator(seed), norm=L2, loss=margin, restarts=2, samples=2, **LIMITS
    ),
    "fgsm": lambda m, x, y, seed: fgsm(m, x, y, epsilon=0.05),
    "carlini-wagner": lambda m, x, y, seed: carlini_wagner_l2(
        m, x, y, steps=10, binary_steps=2, learning_rate=0.1, initial_c=1.0
    ),
    "random-search": lambda m, x, y, seed: random_search(m, x, y, epsilon=0.05, queries=5, generator=generator(seed)),
    "rotate-translate": lambda m, x, y, seed: rotate_translate(
        m, x, y, max_degrees=20.0, max_shift=0.1, tries=2, generator=generator(seed)
    ),
    "autoattack": lambda m, x, y, seed: (
        autoattack(m, x, y, epsilon=0.05, classes=10, seed=seed, attacks=("apgd-ce",)).adversarial
    ),
    "square": lambda m, x, y, seed: square(m, x, y, epsilon=0.05, queries=50, seed=seed),
    "hop-skip-jump": lambda m, x, y, seed: hop_skip_jump(m, x, y, queries=50, seed=seed),
    "uniform": lambda m, x, y, seed: uniform_noise(x, epsilon=0.05, generator=generator(seed)),
    "gaussian": lambda m, x, y, seed: gaussian_noise(x, std=0.05, generator=generator(seed)),
    "corruption": lambda m, x, y, seed: CORRUPTIONS["shot_noise"](x, 3, generator(seed)),
}
LINF_BALL = {"pgd", "fgsm", "random-search", "autoattack", "square", "uniform"}
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
    found = ATTACKS[name](model, images, labels, 1)
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.equal(found, images)
    assert torch.equal(found, ATTACKS[name](model, images, labels, 1))
    if name in LINF_BALL:
        assert LINF.size(found - images).max() <= 0.05 + 1e-6
    if name == "pgd-l2":
        assert L2.size(found - images).max() <= 0.05 + 1e-6
    if name not in UNSEEDED:
        assert not torch.equal(found, ATTACKS[name](model, images, labels, 2))
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
        ATTACKS[name](shipped.classifier, images, shipped.labels[:1], 0)


def test_an_image_without_a_batch_is_refused(shipped: Shipped) -> None:
    with pytest.raises(InputError, match=r"images must be \[N, C, H, W\], got \[1, 28, 28\]"):
        fgsm(shipped.classifier, shipped.images[0], shipped.labels[:1], epsilon=0.1)


def test_attacks_work_where_gradients_are_switched_off(shipped: Shipped) -> None:
    with torch.no_grad():
        found = fgsm(shipped.classifier, shipped.images[:4], shipped.labels[:4], epsilon=0.1)
        near = ATTACKS["carlini-wagner"](shipped.classifier, shipped.images[:4], shipped.labels[:4], 0)
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
    images = torch.rand(4, 3, 8, 8, generator=generator(0)).contiguous(memory_format=torch.channels_last)
    return model.to(memory_format=torch.channels_last), images, model(images).argmax(1)


AUTOATTACK_BY_GRADIENT: dict[str, Attack] = {
    f"autoattack by gradient, {norm.name}": lambda m, x, y, seed, norm=norm: (  # type: ignore[misc]
        autoattack(
            m, x, y, epsilon=0.002, norm=norm, classes=10, seed=seed, attacks=("apgd-ce", "apgd-t", "fab-t")
        ).adversarial
    )
    for norm in (LINF, L2)
}


@pytest.mark.parametrize("name", [*ATTACKS, *AUTOATTACK_BY_GRADIENT])
def test_colours_that_lie_last_in_memory_make_no_difference(
    name: str, colour: tuple[nn.Module, Tensor, Tensor]
) -> None:
    (model, images, labels), attack = colour, (ATTACKS | AUTOATTACK_BY_GRADIENT)[name]
    assert not images.is_contiguous()
    found, plain = attack(model, images, labels, 1), attack(model, images.contiguous(), labels, 1)
    torch.testing.assert_close(found, plain, rtol=0, atol=0.05)
