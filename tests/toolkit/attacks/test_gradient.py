from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.shipped import Shipped, generator, hyperplane
from helpers.tiny import Noisy
from purify_toolkit.attacks.gradient import FGSM, PGD, cross_entropy, margin
from purify_toolkit.attacks.norms import L2, NORMS, Norm


def linear_model(images: Tensor) -> Tensor:
    """Two classes told apart by the mean pixel: the strongest attack is known."""
    mean = images.mean(dim=(1, 2, 3))
    return torch.stack([mean, -mean], dim=1)


@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_on_a_linear_model_l2_pgd_finds_the_gradients_direction(loss: object) -> None:
    weight = torch.randn(1, 3, 4, 4, generator=generator(1))
    images, labels = torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 1])
    found = PGD(epsilon=0.3, steps=60, relative_step=0.5, norm=L2, loss=loss)(
        hyperplane(weight), images, labels, generator=generator()
    )
    signs = torch.tensor([-1, 1]).view(2, 1, 1, 1)
    assert torch.allclose(found, images + 0.3 * signs * weight / weight.norm(), atol=1e-4)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_the_fast_gradient_method_goes_to_the_balls_edge_whatever_the_gradients_size(scale: float) -> None:
    weight = torch.randn(1, 1, 4, 4, generator=generator(1))
    images, labels = torch.full((1, 1, 4, 4), 0.5), torch.tensor([1])

    def model(x: Tensor) -> Tensor:
        return hyperplane(weight)(x - 0.5) * scale

    assert torch.equal(
        FGSM(epsilon=0.125)(model, images, labels, generator=generator()), images + 0.125 * weight.sign()
    )
    found = FGSM(epsilon=0.125, norm=L2)(model, images, labels, generator=generator())
    assert torch.allclose(found, images + 0.125 * weight / weight.norm(), atol=1e-6)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
@pytest.mark.parametrize("epsilon", [0.0, 8 / 255, 0.1, 0.5, 3.0])
def test_examples_stay_in_the_ball_and_in_range(epsilon: float, norm: Norm) -> None:
    images = torch.rand(8, 1, 6, 6, generator=generator(1))
    labels = torch.zeros(8, dtype=torch.long)
    found = PGD(epsilon=epsilon, steps=5, relative_step=0.5, norm=norm)(
        linear_model, images, labels, generator=generator()
    )
    assert norm.size(found - images).max() <= epsilon + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    assert epsilon or torch.equal(found, images)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
def test_each_image_may_have_a_ball_of_its_own(norm: Norm) -> None:
    images = torch.full((2, 1, 4, 4), 0.5)
    epsilon = torch.tensor([0.01, 0.2]).view(2, 1, 1, 1)
    labels = torch.zeros(2, dtype=torch.long)
    found = PGD(epsilon=epsilon, steps=10, relative_step=0.25, norm=norm)(
        linear_model, images, labels, generator=generator()
    )
    assert torch.allclose(norm.size(found - images), epsilon.flatten(), atol=1e-6)


def test_without_a_restart_linf_pgd_is_the_plain_recursion(shipped: Shipped) -> None:
    """Written out once more: what trained the pair that ships must give the same bits."""
    images, labels, epsilon = shipped.images[:20], shipped.labels[:20], 0.1
    low, high = (images - epsilon).clamp(0, 1), (images + epsilon).clamp(0, 1)
    expected = torch.clamp(images + (torch.rand(images.shape, generator=generator()) * 2 - 1) * epsilon, low, high)
    for _ in range(3):
        x = expected.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(shipped.classifier(x), labels, reduction="sum"), x)
        expected = torch.clamp(expected + 0.25 * epsilon * gradient.sign(), low, high)
    found = PGD(epsilon=epsilon, steps=3, relative_step=0.25)(shipped.classifier, images, labels, generator=generator())
    assert torch.equal(found, expected)


def test_the_margin_is_the_best_other_class_minus_the_true_one() -> None:
    logits = torch.tensor([[1.0, 5.0, 3.0], [1.0, 5.0, 3.0], [2.0, 2.0, 0.0]])
    assert margin(logits, torch.tensor([1, 2, 0])).tolist() == [-2.0, 2.0, 0.0]
    assert margin(torch.tensor([[1.0, -4.0], [1.0, -4.0]]), torch.tensor([0, 1])).tolist() == [-5.0, 5.0]


def test_the_margin_attacks_where_the_cross_entropy_has_no_gradient_left() -> None:
    """Logits 200 apart: softmax is 1 in float32 and the cross-entropy's gradient exactly 0."""
    images, labels = torch.full((1, 1, 4, 4), 0.5), torch.tensor([0])

    def sure(x: Tensor) -> Tensor:
        return linear_model(x - 0.4) * 1000

    def attacked(loss: object) -> Tensor:
        return PGD(epsilon=0.15, steps=5, relative_step=0.5, loss=loss)(sure, images, labels, generator=generator())

    assert sure(attacked(margin)).argmax() == 1
    assert sure(attacked(cross_entropy)).argmax() == 0


def test_restarts_are_never_worse_and_keep_the_first_success(shipped: Shipped) -> None:
    model, images, labels = shipped.classifier, shipped.images[:60], shipped.labels[:60]

    def attacked(restarts: int) -> Tensor:
        return PGD(epsilon=0.02, steps=2, relative_step=0.5, restarts=restarts)(
            model, images, labels, generator=generator()
        )

    once, often = attacked(1), attacked(4)
    fell, falls = ~shipped.right(model, once), ~shipped.right(model, often)
    assert torch.equal(often[fell], once[fell])
    assert falls.sum() > fell.sum()
    losses = [cross_entropy(model(found), labels)[~falls] for found in (once, often)]
    assert (losses[1] >= losses[0]).all()
    assert (losses[1] > losses[0]).any()


@pytest.mark.slow
def test_the_mean_of_several_evaluations_beats_one_on_a_randomised_model(shipped: Shipped) -> None:
    model, images, labels = nn.Sequential(Noisy(0.05), shipped.classifier), shipped.images[:60], shipped.labels[:60]

    def right(samples: int) -> float:
        torch.manual_seed(0)
        found = PGD(epsilon=0.02, steps=5, relative_step=0.25, samples=samples)(
            model, images, labels, generator=generator()
        )
        return sum(int(shipped.right(model, found).sum()) for _ in range(10)) / (10 * len(images))

    once, often = right(1), right(16)
    assert often < once - 0.1, (once, often)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
def test_an_image_on_which_the_model_is_wrong_may_be_left_alone(shipped: Shipped, norm: Norm) -> None:
    """It stays where the model was first wrong; the others end as without, and the model is asked less."""
    size, asked = {"Linf": 0.005, "L2": 0.1, "L1": 1.0}[norm.name], list[int]()
    images, labels = shipped.images[:64], shipped.labels[:64]

    def counting(x: Tensor) -> Tensor:
        asked.append(len(x))
        return shipped.classifier(x)

    whole = PGD(epsilon=size, steps=8, relative_step=0.25, norm=norm)
    all_steps = whole(shipped.classifier, images, labels, generator=generator())
    stopped = replace(whole, until_wrong=True)(counting, images, labels, generator=generator())
    assert asked == sorted(asked, reverse=True)
    assert len(asked) <= 8
    with torch.no_grad():
        ends, stops = (shipped.classifier(found).argmax(1) == labels for found in (all_steps, stopped))
    assert 0 < int(stops.sum()) < len(labels)
    assert not (stops & ~ends).any()
    torch.testing.assert_close(stopped[stops], all_steps[stops], rtol=0, atol=1e-5)
    assert (norm.size(stopped - images) <= size * (1 + 1e-5)).all()


def test_an_attack_ends_once_the_model_is_wrong_on_all_images() -> None:
    asked = list[int]()

    def model(x: Tensor) -> Tensor:
        asked.append(len(x))
        return linear_model(x - 0.5)

    attack = PGD(epsilon=torch.full((4, 1, 1, 1), 0.2), steps=20, relative_step=0.25, until_wrong=True)
    attack(model, torch.full((4, 1, 4, 4), 0.5 + 0.06), torch.zeros(4, dtype=torch.long), generator=generator())
    assert len(asked) < 6
