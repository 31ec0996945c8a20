from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.shipped import Shipped, generator
from purify_edge.errors import InputError
from purify_toolkit.attacks.corruptions import CORRUPTIONS, SEVERITIES
from purify_toolkit.data.pixels import to_8bit, to_float


def photographs(channels: int, height: int, width: int) -> torch.Tensor:
    """Smooth forms with some texture, not at the ends of the range."""
    coarse = torch.rand(6, channels, 6, 6, generator=generator(1))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth + 0.1 * torch.rand(smooth.shape, generator=generator(2))).clamp(0.05, 0.95)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 40, 65), (1, 5, 7)])
def test_images_stay_images_and_differ_the_more_the_severer(name: str, shape: tuple[int, int, int]) -> None:
    images = photographs(*shape)
    before = images.clone()
    found = [CORRUPTIONS[name](images, severity, generator()) for severity in SEVERITIES]
    assert all(one.shape == images.shape and one.dtype == torch.float32 for one in found)
    assert all(one.min() >= 0 and one.max() <= 1 for one in found)
    assert torch.equal(found[2], CORRUPTIONS[name](images, 3, generator()))
    assert torch.equal(images, before)
    distances = [float((one - images).square().mean().sqrt()) for one in found]
    assert distances[-1] > distances[0]
    # Which pixels fall together changes with the resolution, so a little less of it need not differ more.
    assert name == "pixelate" or distances == sorted(distances)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_mildest_leaves_most_images_to_their_classes(name: str, shipped: Shipped) -> None:
    found = CORRUPTIONS[name](shipped.images, 1, generator())
    clean, right = (int(shipped.right(shipped.classifier, images).sum()) for images in (shipped.images, found))
    assert clean / 2 <= right <= clean + 5


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_other_severities_are_refused(severity: int) -> None:
    with pytest.raises(InputError, match="severity is one of 1, 2, 3, 4, 5"):
        CORRUPTIONS["contrast"](torch.zeros(1, 1, 4, 4), severity, generator())


def test_noises_have_the_sizes_of_their_definitions() -> None:
    grey = torch.full((20, 3, 32, 32), 0.5)

    def noise(name: str, severity: int) -> torch.Tensor:
        return CORRUPTIONS[name](grey, severity, generator()) - grey

    assert float(noise("gaussian_noise", 5).std()) == pytest.approx(0.10, rel=0.02)
    assert float(noise("shot_noise", 5).std()) == pytest.approx((0.5 / 50) ** 0.5, rel=0.02)
    assert float(noise("speckle_noise", 1).std()) == pytest.approx(0.03, rel=0.02)
    lost = noise("impulse_noise", 5)
    assert float((lost != 0).float().mean()) == pytest.approx(0.07, rel=0.05)
    assert float((lost > 0).float().sum() / (lost != 0).sum()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur", "pixelate"])
def test_blurs_keep_flat_images_and_smooth_others(name: str) -> None:
    flat = torch.full((2, 3, 32, 32), 0.4)
    rough = torch.rand(2, 3, 32, 32, generator=generator())
    assert torch.allclose(CORRUPTIONS[name](flat, 5, generator()), flat, atol=1e-5)
    found = CORRUPTIONS[name](rough, 5, generator())
    assert found.std() < 0.9 * rough.std()
    assert found.mean() == pytest.approx(float(rough.mean()), abs=0.03)


def test_motion_blur_smears_along_lines_of_different_directions() -> None:
    points = torch.zeros(8, 1, 33, 33)
    points[:, 0, 16, 16] = 1
    found = CORRUPTIONS["motion_blur"](points, 5, generator())[:, 0]
    assert torch.allclose(found.sum((1, 2)), torch.ones(8), atol=0.01)
    ends = []
    for one in found:
        places = (one > 0.01).nonzero()
        spread = torch.linalg.eigvalsh(torch.cov(places.T.float(), aweights=one[tuple(places.T)]))
        assert spread[1] > 8 * spread[0]
        ends.append(tuple(places[places[:, 1].argmax()].tolist()))
    assert len(set(ends)) >= 4


def test_brightness_keeps_hue_and_saturation() -> None:
    images = photographs(3, 32, 32) * 0.6
    found = CORRUPTIONS["brightness"](images, 5, generator())
    assert torch.allclose(found.amax(1), images.amax(1) + 0.3, atol=1e-5)
    assert torch.allclose(found / found.amax(1, keepdim=True), images / images.amax(1, keepdim=True), atol=1e-5)
    black = torch.zeros(1, 3, 4, 4)
    assert torch.allclose(CORRUPTIONS["brightness"](black, 1, generator()), black + 0.05)


def test_contrast_moves_to_the_mean() -> None:
    images = photographs(3, 32, 32)
    mean = images.mean((2, 3), keepdim=True)
    assert torch.allclose(CORRUPTIONS["contrast"](images, 2, generator()), (images + mean) / 2, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_a_file_of_that_quality_holds(channels: int, tmp_path: Path) -> None:
    images = photographs(channels, 32, 48)
    found = CORRUPTIONS["jpeg_compression"](images, 5, generator())
    array = to_8bit(images)[2].permute(1, 2, 0).numpy()
    Image.fromarray(array.squeeze()).save(tmp_path / "image.jpg", quality=40)
    stored = torch.from_numpy(np.array(Image.open(tmp_path / "image.jpg"))).reshape(32, 48, channels)
    assert torch.equal(found[2], to_float(stored.permute(2, 0, 1)[None])[0])
    assert (found - images).abs().mean() < 0.06
    assert CORRUPTIONS["jpeg_compression"](images[:0], 5, generator()).shape == (0, channels, 32, 48)
