"""What is counted of a pair's operations."""

import pytest
import torch
from torch import nn

from purify_export.networks import Networks, flop_of

MODULES: dict[str, tuple[nn.Module, int]] = {
    "convolutions": (
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 5, groups=4)),
        2 * (8 * 6 * 6 * 3 * 9 + 8 * 2 * 2 * 2 * 25),
    ),
    "transposed": (
        nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ConvTranspose2d(6, 4, 4, 2, 1, groups=2)),
        2 * (6 * 6 * 6 * 3 * 9 + 6 * 6 * 6 * 2 * 16),
    ),
    "linear": (nn.Sequential(nn.Flatten(), nn.Linear(432, 7), nn.Linear(7, 5, bias=False)), 2 * (432 * 7 + 7 * 5)),
    "nothing": (nn.Sequential(nn.ReLU(), nn.Flatten()), 0),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_multiplication_and_an_addition_count_as_two(name: str) -> None:
    module, expected = MODULES[name]
    assert flop_of(module.eval(), (3, 12, 12)) == expected


def test_attention_counts_though_it_is_fused() -> None:
    """Without gradients PyTorch runs a whole layer as one operator."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(16, 16), layer).eval()  # 9 tokens of an image of 4 x 4
    projections = 9 * 16 * 16 * 5 + 2 * 9 * 16 * 32  # first, queries, keys, values, output; the two of the network
    assert flop_of(tokens, (9, 4, 4)) == 2 * (projections + 2 * 9 * 9 * 16)
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_pair_that_ships_has_the_count_that_its_documents_give(networks: Networks) -> None:
    assert networks.flop((1, 28, 28)) == {
        "purifier": 40190976,
        "classifier": 25515776,
        "defended": 65706752,
        "served": 40190976 + 2 * 25515776,
    }
