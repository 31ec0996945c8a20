import pytest
import torch

from helpers.shipped import generator
from purify_toolkit.attacks.norms import L1, NORMS, Norm


def test_the_norms_are_the_largest_change_and_the_root_of_the_squares() -> None:
    perturbation = torch.tensor([[3.0, -4.0], [0.0, 0.0]]).view(2, 1, 1, 2)
    assert {name: norm.size(perturbation).tolist() for name, norm in NORMS.items()} == {
        "Linf": [4.0, 0.0],
        "L2": [5.0, 0.0],
        "L1": [7.0, 0.0],
    }


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
def test_projection_leaves_what_lies_inside_and_moves_the_rest_to_the_edge(norm: Norm) -> None:
    images = torch.full((2, 1, 4, 4), 0.5)
    direction = norm.direction(torch.randn(images.shape, generator=generator()), images)
    assert torch.allclose(norm.size(direction), torch.ones(2))
    candidate = images + direction * torch.tensor([0.1, 0.3]).view(2, 1, 1, 1)
    projected = norm.project(candidate, images, 0.2)
    expected = images + direction * torch.tensor([0.1, 0.2]).view(2, 1, 1, 1)
    assert torch.allclose(projected, expected, atol=1e-6)
    at_the_end = norm.project(torch.full_like(images, 1.5), torch.ones_like(images), 0.2)
    assert torch.equal(at_the_end, torch.ones_like(images))


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
def test_a_zero_gradient_has_no_direction(norm: Norm) -> None:
    assert torch.equal(norm.direction(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)), torch.zeros(1, 1, 2, 2))


def test_starts_fill_the_balls_evenly() -> None:
    """In three dimensions an eighth of each ball's volume lies within half its radius."""
    for norm in NORMS.values():
        size = norm.size(norm.start(torch.zeros(4000, 3, 1, 1), 2.0, generator()))
        assert size.max() <= 2
        assert ((size < 1).float().mean() - 1 / 8).abs() < 0.02


def test_the_l1_projection_is_the_nearest_point_of_the_ball() -> None:
    """Against points on random ways to other points of the ball: none of them is nearer."""
    images = torch.full((1, 1, 1, 5), 0.5)
    candidate = images + torch.tensor([0.4, -0.3, 0.2, 0.0, 0.05])
    projected = L1.project(candidate, images, 0.5)
    assert L1.size(projected - images).item() == pytest.approx(0.5, abs=1e-6)
    others = images + L1.start(images.expand(500, -1, -1, -1), 0.5, generator())
    toward = projected + 0.01 * (others - projected)
    assert ((toward - candidate).flatten(1).norm(dim=1) >= (projected - candidate).norm() - 1e-6).all()


def test_an_l1_step_moves_the_values_of_the_largest_gradient() -> None:
    gradient = torch.arange(200.0).view(1, 2, 10, 10) - 100
    images = torch.full_like(gradient, 0.5)
    images[0, 0, 0, 1] = 0  # it cannot become less
    moved = L1.direction(gradient, images).flatten()
    assert moved.nonzero().flatten().tolist() == [0, 199]
    assert moved[[0, 199]].tolist() == [-0.5, 0.5]
