from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from helpers.silent import Silent, request_for
from helpers.small_data import RECIPE
from purify_toolkit.networks.architectures import whiten
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.train.train import train
from purify_toolkit.train.trainer import OPTIMIZERS


def responses(convolution: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    """Without the bias, `[D, positions]`."""
    found = nn.functional.conv2d(images, convolution.weight)
    return found.transpose(0, 1).flatten(1).detach()


def test_whitened_responses_are_uncorrelated_and_of_unit_variance() -> None:
    images = torch.randn(200, 3, 12, 12, generator=torch.Generator().manual_seed(0)).cumsum(-1).cumsum(-2)
    convolution = nn.Conv2d(3, 24, 2)
    assert (responses(convolution, images).cov()[:12, :12] - torch.eye(12)).abs().max() > 0.5
    whiten(convolution, images)
    found = responses(convolution, images)
    assert torch.allclose(found[:12].cov(), torch.eye(12), atol=0.01)
    assert torch.equal(convolution.weight[:12], -convolution.weight[12:])
    assert not convolution.weight.requires_grad


def test_a_constant_image_does_not_blow_up() -> None:
    convolution = nn.Conv2d(1, 8, 2)
    whiten(convolution, torch.ones(4, 1, 6, 6))
    assert convolution.weight.abs().max() <= 1 / 5e-4**0.5 + 1e-3


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_pooled_classifier_keeps_its_whitened_layer(optimizer: str, small_data: Path, tmp_path: Path) -> None:
    before, after = RECIPE.split("[teacher]")
    changed = before.replace("width = 8", f'width = 8\narchitecture = "pooled"\noptimizer = "{optimizer}"')
    text = f"{changed}[teacher]{after}".replace("imitation = 1.0", "imitation = 0.0")
    train(request_for(tmp_path / "run", small_data, recipe_text=text, limit=128), Silent())
    weights = load_file(RunFolder(tmp_path / "run").weights_path("classifier"))
    first = weights["features.0.weight"]
    assert torch.equal(first[:4], -first[4:])  # which a step of training would break
    assert weights["features.2.weight"].std() > 0
    assert weights["features.4.num_batches_tracked"] == 3 * 2
