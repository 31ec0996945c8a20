"""Frozen networks look at a training image once, and again only when it has changed."""

import pytest
import torch
from torch import Tensor, nn

from purify_toolkit.train import teacher_cache as remembered
from purify_toolkit.train.teacher_cache import Remembered

COUNT = 20


class Watched(nn.Module):
    """A network that notes which images it was shown; each image is its own number all over."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x[:, 0, 0, 0].int().tolist())
        return 2 * x + 1


def numbered(indices: Tensor) -> Tensor:
    return indices.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).float()


def test_each_image_is_shown_once() -> None:
    network = Watched()
    remember = Remembered(network, COUNT)
    for indices in ([3, 1, 7], [7, 2, 3], [1, 2]):
        batch = torch.tensor(indices)
        assert torch.equal(remember(numbered(batch), batch), 2 * numbered(batch) + 1)
    assert network.seen == [[3, 1, 7], [2]]


def test_a_new_version_of_an_image_is_shown_again() -> None:
    network, batch = Watched(), torch.tensor([5, 6, 8])
    remember, versions = Remembered(network, COUNT), torch.zeros(COUNT, dtype=torch.int64)
    remember(numbered(batch), batch, versions)
    versions[6] += 1
    images = numbered(batch).clone()
    images[1] = 11
    found = remember(images, batch, versions)
    assert network.seen == [[5, 6, 8], [11]]
    assert torch.equal(found, 2 * images + 1)
    assert torch.equal(remember(images, batch, versions), found)
    assert len(network.seen) == 2


def test_what_is_too_large_is_computed_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = Watched(), torch.tensor([5, 6])
    monkeypatch.setattr(remembered, "MOST_BYTES", COUNT * 48 * 4 - 1)
    remember = Remembered(network, COUNT)
    for _ in range(2):
        assert torch.equal(remember(numbered(batch), batch), 2 * numbered(batch) + 1)
    assert network.seen == [[5, 6], [5, 6]]


def test_no_gradient_flows_through_what_is_remembered() -> None:
    batch = torch.tensor([5, 6])
    images = numbered(batch).clone().requires_grad_(True)
    assert not Remembered(Watched(), COUNT)(images, batch).requires_grad
