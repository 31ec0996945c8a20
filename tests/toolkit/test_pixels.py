import torch

from purify_toolkit.pixels import batch_size, to_8bit, to_float


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


def test_a_gpu_attacks_more_images_at_once() -> None:
    images = torch.zeros(1, 3, 32, 32)
    assert batch_size(images, torch.device("cpu")) == batch_size(images) == 382
    assert batch_size(images, torch.device("cuda")) == 3062
