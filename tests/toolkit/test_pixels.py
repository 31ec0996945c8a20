from types import ModuleType

import pytest
import torch

from purify_toolkit.data import splits
from purify_toolkit.data.pixels import batch_size, to_8bit, to_float
from purify_toolkit.data.splits import Split
from purify_toolkit.device.processes import Processes
from purify_toolkit.runs.pretrained import open_run
from purify_toolkit.train import examples as adversarial


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


@pytest.mark.parametrize("module", [splits, adversarial])
def test_where_images_are_attacked_says_how_many_at_once(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    images, labels = torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64)
    monkeypatch.setattr(module, "batch_size", lambda images, device=None: 6 if device is None else 2)
    if module is splits:
        sizes = [len(found) for _, found in splits.batches(Split(images, labels), device)]
    else:
        attack = open_run(None).recipe.attack
        pool = adversarial.AdversarialPool(images, labels, _uncertain, attack, processes=Processes(device))
        sizes = list(pool.refresh(torch.arange(6), torch.Generator().manual_seed(0)))
    assert sizes == [2, 2, 2]


def _uncertain(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)[:, :10]
