import pytest
import torch

from purify_toolkit.attacks.gradient import pgd
from purify_toolkit.errors import InputError
from purify_toolkit.evaluation import count_correct
from purify_toolkit.pixels import batch_size, to_8bit, to_float
from purify_toolkit.pretrained import open_run


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear_model(images: torch.Tensor) -> torch.Tensor:
    """Two classes told apart by the mean pixel: the strongest attack is known."""
    mean = images.mean(dim=(1, 2, 3))
    return torch.stack([mean, -mean], dim=1)


def test_on_a_linear_model_pgd_finds_the_corner_of_the_ball() -> None:
    images = torch.full((3, 1, 4, 4), 0.5)
    labels = torch.tensor([0, 1, 0])
    found = pgd(linear_model, images, labels, epsilon=0.1, steps=10, relative_step=0.25, generator=generator())
    signs = torch.tensor([-1, 1, -1]).view(3, 1, 1, 1)
    assert torch.allclose(found, images + 0.1 * signs, atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 8 / 255, 0.1, 0.5])
def test_examples_stay_in_the_ball_and_in_range(epsilon: float) -> None:
    images = torch.rand(8, 1, 6, 6, generator=generator(1))
    labels = torch.zeros(8, dtype=torch.long)
    found = pgd(linear_model, images, labels, epsilon=epsilon, steps=5, relative_step=0.5, generator=generator())
    assert (found - images).abs().max() <= epsilon + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1


def test_each_image_may_have_a_ball_of_its_own() -> None:
    images = torch.full((2, 1, 4, 4), 0.5)
    epsilon = torch.tensor([0.01, 0.2]).view(2, 1, 1, 1)
    labels = torch.zeros(2, dtype=torch.long)
    found = pgd(linear_model, images, labels, epsilon=epsilon, steps=10, relative_step=0.25, generator=generator())
    assert torch.allclose((found - images).abs().amax(dim=(1, 2, 3)), epsilon.flatten(), atol=1e-6)


def test_the_start_is_random_and_seeded() -> None:
    images, labels = torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, dtype=torch.long)

    def start(seed: int) -> torch.Tensor:
        return pgd(linear_model, images, labels, epsilon=0.1, steps=0, relative_step=0.25, generator=generator(seed))

    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))
    assert (start(0) - images).std() > 0.03


@pytest.mark.parametrize("images", [torch.full((1, 1, 2, 2), 1.1), torch.full((1, 1, 2, 2), -0.1)])
def test_images_outside_the_range_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"images must lie in \[0, 1\], got"):
        pgd(linear_model, images, torch.zeros(1).long(), epsilon=0.1, steps=1, relative_step=1, generator=generator())


def test_the_shipped_classifier_falls_to_pgd() -> None:
    run = open_run(None)
    classifier, samples = run.load_classifier(), run.load_samples()
    images, labels = to_float(samples.images[:100]), samples.labels[:100]
    found = pgd(classifier, images, labels, epsilon=0.1, steps=20, relative_step=0.125, generator=generator())
    assert count_correct(classifier, images, labels) >= 85
    assert count_correct(classifier, found, labels) <= 8


def test_rounding_to_8_bits_stays_in_the_ball() -> None:
    clean = torch.full((1, 1, 16, 16), 100, dtype=torch.uint8)
    attacked = to_float(clean) + 0.1  # 25.5 levels: rounding alone would go to 126
    assert to_8bit(attacked).max() == 126
    assert to_8bit(attacked, clean=clean, epsilon=0.1).max() == 125
    assert to_8bit(to_float(clean) + 8 / 255, clean=clean, epsilon=8 / 255).max() == 108


def test_8_bits_survive_the_way_to_float_and_back() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    floats = to_float(images)
    assert floats.dtype == torch.float32
    assert floats.min() == 0
    assert floats.max() == 1
    assert torch.equal(to_8bit(floats), images)


def test_large_images_are_attacked_few_at_once() -> None:
    sizes = [batch_size(torch.zeros(1, 3, side, side)) for side in (28, 32, 224, 2000)]
    assert sizes == [500, 382, 7, 1]
