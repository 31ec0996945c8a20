import numpy as np
import pytest
import torch
from torch import nn

from purify_export import ranges
from purify_export.export import Networks
from purify_export.ranges import largest_activation, range_check
from purify_runtime.golden import GoldenSplit


def split_of(images: np.ndarray) -> GoldenSplit:
    empty = np.zeros((len(images), 1), np.float32)
    return GoldenSplit(images, np.zeros(len(images), np.int64), empty, empty, empty)


class Hidden(nn.Module):
    """Grows past float16 on bright images, and hides it behind a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.grow = nn.Conv2d(1, 1, 1, bias=False)
        self.grow.weight.data.fill_(1e5)
        self.end = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.end(self.grow(x))
        return answer


def test_an_overflow_behind_a_sigmoid_is_found_on_the_split_that_shows_it() -> None:
    dark, bright = np.full((3, 4, 4, 1), 100, np.uint8), np.full((70, 4, 4, 1), 100, np.uint8)
    bright[-1] = 255
    clean = range_check(Hidden(), {"clean": split_of(dark)})
    assert clean.passed
    both = range_check(Hidden(), {"clean": split_of(dark), "adversarial": split_of(bright)})
    assert not both.passed
    assert both.name == "largest activation for fp16, grow"
    assert (both.value, both.limit) == (1e5, 65504)


@pytest.mark.parametrize("position", [0, 5, 9])
def test_the_largest_may_be_in_any_batch(monkeypatch: pytest.MonkeyPatch, position: int) -> None:
    monkeypatch.setattr(ranges, "batch_size", lambda images: 4)
    images = torch.full((10, 1, 4, 4), 0.25)
    images[position] = 1
    assert largest_activation(Hidden(), images) == ("grow", 1e5)


def test_hooks_are_removed(networks: Networks) -> None:
    name, value = largest_activation(networks.defended, torch.rand(3, 1, 28, 28))
    assert value < 65504
    assert dict(networks.defended.named_modules())[name] is not None
    assert not any(module._forward_hooks for module in networks.defended.modules())


class Pair(nn.Module):
    """Gives a tuple, the larger tensor second."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, 1e6 * x


class Hiding(nn.Module):
    """Shows nothing of what its pair gives."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.pair(x)[1])


def test_modules_that_give_tuples_are_watched_too() -> None:
    assert largest_activation(Hiding(), torch.ones(2, 1, 4, 4)) == ("pair", 1e6)
