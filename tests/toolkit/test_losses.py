import math

import pytest
import torch

from purify_toolkit.train.losses import (
    ensemble,
    feature_loss,
    guidance_loss,
    imitation_loss,
    reconstruction_loss,
    structure_loss,
)


def test_reconstruction_and_imitation_are_the_mean_absolute_difference() -> None:
    a, b = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 0.25)
    b[0, 0, 0, 0] = 1.0
    assert reconstruction_loss(a, b).item() == pytest.approx((7 * 0.25 + 1) / 8)
    assert imitation_loss(a, b).item() == pytest.approx((7 * 0.25 + 1) / 8)


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 0.8), (1.0, 0.2), (0.25, 0.65)])
def test_the_ensemble_is_the_weighted_mean_of_the_teachers(weight: float, expected: float) -> None:
    adversarial, normal = torch.full((1, 1, 2, 2), 0.2), torch.full((1, 1, 2, 2), 0.8)
    assert ensemble(adversarial, normal, adversarial_weight=weight).mean().item() == pytest.approx(expected)


def test_guidance_is_the_divergence_from_the_clean_images_classes() -> None:
    clean, purified = torch.tensor([[0.0, 1.0]] * 3), torch.zeros(3, 2)
    p = 1 / (1 + math.exp(-1.0))  # of class 1, on the clean image; 1/2 on the purified one
    expected = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    assert guidance_loss(purified, clean).item() == pytest.approx(expected, rel=1e-5)
    assert guidance_loss(clean, clean).item() == pytest.approx(0, abs=1e-7)


def test_guidance_draws_the_purified_image_towards_the_clean_ones_class() -> None:
    purified = torch.zeros(1, 2, requires_grad=True)
    guidance_loss(purified, torch.tensor([[0.0, 1.0]])).backward()
    assert purified.grad is not None
    assert purified.grad[0, 1] < 0 < purified.grad[0, 0]


def test_the_distance_of_features_has_no_scale() -> None:
    clean, purified = torch.tensor([[1.0, -3.0], [2.0, 2.0]]), torch.tensor([[1.0, -3.0], [2.0, 4.0]])
    assert feature_loss(purified, clean).item() == pytest.approx(2 / 8)
    assert feature_loss(100 * purified, 100 * clean).item() == pytest.approx(2 / 8)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.2, 0.8), (0.0, 1.0)])
def test_of_flat_images_the_structural_similarity_is_that_of_their_brightness(a: float, b: float) -> None:
    of_a, of_b = (torch.full((2, 3, 9, 8), value, dtype=torch.float64) for value in (a, b))
    expected = 1 - (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4)
    assert structure_loss(of_a, of_b).item() == pytest.approx(expected, abs=1e-9)


def test_the_structural_similarity_of_a_window_is_that_of_its_moments() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 1, 7, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    covariance = torch.cov(torch.stack([a.flatten(), b.flatten()]), correction=0)
    brightness = (2 * a.mean() * b.mean() + 1e-4) / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
    contrast = (2 * covariance[0, 1] + 9e-4) / (covariance[0, 0] + covariance[1, 1] + 9e-4)
    assert structure_loss(a, b).item() == pytest.approx(1 - (brightness * contrast).item(), abs=1e-9)
    assert structure_loss(a, 1 - a).item() > structure_loss(a, b).item() > structure_loss(a, a).item()


def test_the_structural_similarity_is_the_mean_over_every_window() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 1, 7, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    windows = [structure_loss(a[..., left : left + 7], b[..., left : left + 7]).item() for left in range(3)]
    assert structure_loss(a, b).item() == pytest.approx(sum(windows) / 3, abs=1e-9)
