import pytest
import torch
from torch import nn

from purify_toolkit.networks.architectures import CLASSIFIERS, Classifier, Purifier


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (1, 1), (5, 31), (224, 17)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_purifier_keeps_any_shape_and_the_range_of_pixels(channels: int, size: tuple[int, int]) -> None:
    purifier = Purifier(channels, width=4, depth=2, blocks=1).eval()
    images = torch.rand(2, channels, *size)
    with torch.no_grad():
        purified = purifier(images)
    assert purified.shape == images.shape
    assert purified.min() >= 0
    assert purified.max() <= 1


@pytest.mark.parametrize(("depth", "blocks"), [(1, 0), (2, 1), (3, 2)])
def test_depth_and_blocks_are_those_asked_for(depth: int, blocks: int) -> None:
    purifier = Purifier(1, width=4, depth=depth, blocks=blocks).eval()
    assert len(purifier.encoder) == len(purifier.up) == depth
    assert all(len(level) == 1 + blocks for level in purifier.encoder)
    widest = max(parameter.shape[0] for parameter in purifier.parameters())
    assert widest == 4 * 2**depth


def test_all_that_a_purifier_with_a_bottleneck_knows_goes_through_its_few_channels() -> None:
    torch.manual_seed(0)
    purifier, shapes = Purifier(1, width=4, depth=2, blocks=1, bottleneck=2).eval(), []
    first, other = torch.rand(2, 2, 1, 28, 28)
    assert not torch.equal(purifier(first), purifier(other))

    def emptied(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(output.shape))
        return torch.zeros_like(output)

    purifier.narrow[0].register_forward_hook(emptied)
    assert torch.equal(purifier(first), purifier(other))
    assert set(shapes) == {(2, 2, 7, 7)}


def test_padding_does_not_move_the_image() -> None:
    """Where the size fits, an image inside a larger one is purified alike, away from the seam."""
    torch.manual_seed(0)
    purifier = Purifier(1, width=4, depth=1, blocks=0).eval()
    large = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        whole, part = purifier(large), purifier(large[..., :50, :50])
    assert torch.allclose(whole[..., :24, :24], part[..., :24, :24], atol=1e-6)


def test_a_classifier_normalises_by_itself() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 16, 16)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]
    classifier = Classifier(3, 5, mean=mean, std=std, width=4, blocks=1).eval()
    plain = Classifier(3, 5, mean=[0, 0, 0], std=[1, 1, 1], width=4, blocks=1).eval()
    plain.load_state_dict(classifier.state_dict() | {"mean": plain.mean, "std": plain.std})
    normalised = (images - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    with torch.no_grad():
        assert classifier(images).shape == (4, 5)
        assert torch.allclose(classifier(images), plain(normalised), atol=1e-5)


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (9, 31), (65, 40)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_every_classifier_takes_any_size(architecture: str, channels: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    classifier = Classifier(
        channels, 7, mean=[0.5] * channels, std=[0.3] * channels, width=4, blocks=1, architecture=architecture
    ).eval()
    images = torch.rand(2, channels, *size)
    with torch.no_grad():
        logits = classifier(images)
    assert logits.shape == (2, 7)
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_blocks_deepen_and_width_widens_a_classifier(architecture: str) -> None:
    def parameters(width: int, blocks: int) -> int:
        network = Classifier(1, 10, mean=[0.5], std=[0.3], width=width, blocks=blocks, architecture=architecture)
        return sum(parameter.numel() for parameter in network.parameters())

    assert parameters(4, 1) < parameters(4, 2) < parameters(8, 2)


def test_the_separable_classifier_filters_each_channel_by_itself() -> None:
    network = Classifier(1, 10, mean=[0.5], std=[0.3], width=4, blocks=1, architecture="separable")
    convolutions = [module for module in network.features.modules() if isinstance(module, nn.Conv2d)]
    assert all(module.groups == module.in_channels or module.kernel_size == (1, 1) for module in convolutions[1:])
    assert sum(module.groups > 1 for module in convolutions) == 6  # three stages of two


def test_the_pooled_classifier_pools_right_after_a_stages_first_convolution() -> None:
    network = Classifier(3, 10, mean=[0.5] * 3, std=[0.3] * 3, width=4, blocks=1, architecture="pooled")
    sizes: list[int] = []
    for module in network.features.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    network(torch.rand(2, 3, 32, 32))
    assert sizes == [15, 15, 7, 7, 3, 3]
