import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from helpers.shipped import Shipped, generator
from purify_toolkit.attacks.gradient import margin
from purify_toolkit.attacks.spatial import RotateTranslate, warp


def random_images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=generator(3))


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 12, 20)])
@pytest.mark.parametrize("degrees", [-37.0, 10.0, 90.0])
def test_a_rotation_is_torchvisions(shape: tuple[int, ...], degrees: float) -> None:
    images = random_images(*shape)
    expected = tv.rotate(images, degrees, interpolation=InterpolationMode.BILINEAR)

    assert torch.allclose(warp(images, degrees=degrees), expected, atol=1e-4)


def test_a_shift_moves_pixels_right_and_down_after_the_rotation() -> None:
    images = random_images(2, 1, 10, 20)
    moved = warp(images, shift_x=torch.tensor([0.1, 0.0]), shift_y=torch.tensor([0.0, 0.3]))
    assert torch.allclose(moved[0, :, :, 2:], images[0, :, :, :-2], atol=1e-5)
    assert moved[0, :, :, :2].abs().max() < 1e-5
    assert torch.allclose(moved[1, :, 3:], images[1, :, :-3], atol=1e-5)
    both = warp(images, degrees=30.0, shift_x=0.1, shift_y=0.2)
    shifted = warp(warp(images, degrees=30.0), shift_x=0.1, shift_y=0.2)
    assert torch.allclose(both[:, :, 2:, 2:], shifted[:, :, 2:, 2:], atol=1e-4)


def test_zoom_enlarges() -> None:
    images = torch.zeros(1, 1, 16, 16)
    images[:, :, 4:12, 4:12] = 1
    assert warp(images, zoom=2.0).mean() > 0.9
    assert warp(images, zoom=0.5).sum() == pytest.approx(16, abs=1)


def test_the_worst_of_the_tries_is_kept_for_each_image(shipped: Shipped) -> None:
    model, images, labels = shipped.classifier, shipped.images[:50], shipped.labels[:50]

    def attacked(tries: int, degrees: float = 30.0, shift: float = 0.1) -> torch.Tensor:
        return RotateTranslate(degrees=degrees, shift=shift, tries=tries)(model, images, labels, generator=generator())

    margins = [margin(model(found), labels) for found in (images, attacked(1), attacked(10))]
    assert (margins[1] >= margins[0] - 1e-5).all()
    assert (margins[2] >= margins[1] - 1e-5).all()
    right = [int((values <= 0).sum()) for values in margins]
    assert right[0] > right[1] > right[2] + 5
    assert torch.equal(attacked(10), attacked(10))
    assert torch.equal(attacked(3, 0.0, 0.0), images)
