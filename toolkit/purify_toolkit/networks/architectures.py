"""The networks: a convolutional autoencoder that purifies and a small residual classifier."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _conv(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Sequential:
    """Build a 3 x 3 convolution, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around an identity, as in He et al. 2016 (arXiv 1512.03385)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(channels, channels),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, C, H, W] -> [N, C, H, W]`."""
        return F.relu(x + self.body(x))


def _blocks(count: int, channels: int) -> list[nn.Module]:
    return [ResidualBlock(channels) for _ in range(count)]


class Purifier(nn.Module):
    """A convolutional autoencoder, image to image: `[N, C, H, W] -> [N, C, H, W]`, pixels in [0, 1].

    Fully convolutional: any H and W. The image is padded by its edge pixels to a multiple of
    `2 ** depth` and the output cropped back. Each level of the encoder halves the resolution by a
    strided convolution and doubles the channels; the decoder goes back by nearest-neighbour resize
    and convolution, which quantises better than a transposed convolution, and adds the encoder's
    features of the same level.

    Args:
        channels: of the image, 1 or 3.
        width: channels at the highest resolution.
        depth: how often the resolution is halved.
        blocks: residual blocks at each level of encoder and decoder.
        bottleneck: so many channels are all that the decoder gets, at the lowest resolution, without the features of
            the encoder's levels; 0 for a network without one.
    """

    def __init__(self, channels: int, *, width: int, depth: int, blocks: int, bottleneck: int = 0) -> None:
        super().__init__()
        self.multiple = 2**depth
        widths = [width * 2**level for level in range(depth + 1)]
        self.stem = _conv(channels, width)
        self.encoder = nn.ModuleList(
            nn.Sequential(_conv(small, large, stride=2), *_blocks(blocks, large)) for small, large in pairwise(widths)
        )
        narrow = [nn.Conv2d(widths[-1], bottleneck, 1), _conv(bottleneck, widths[-1])] if bottleneck else []
        self.narrow = nn.Sequential(*narrow)
        self.up = nn.ModuleList(_conv(widths[level + 1], widths[level]) for level in reversed(range(depth)))
        # Residual blocks at full resolution would cost more than all the others together.
        self.refine = nn.ModuleList(
            nn.Sequential(*_blocks(blocks if level else 0, widths[level])) for level in reversed(range(depth))
        )
        self.head = nn.Conv2d(width, channels, 3, 1, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map `[N, C, H, W] -> [N, C, H, W]`, pixels in [0, 1]."""
        height, width = x_NCHW.shape[-2:]
        pad_bottom, pad_right = -height % self.multiple, -width % self.multiple
        x = F.pad(x_NCHW, (0, pad_right, 0, pad_bottom), mode="replicate") if pad_bottom or pad_right else x_NCHW
        y = self.stem(x)
        skips = []
        for level in self.encoder:
            skips.append(y)
            y = level(y)
        y = self.narrow(y)
        for up, refine, skip in zip(self.up, self.refine, reversed(skips), strict=True):
            y = up(F.interpolate(y, scale_factor=2.0, mode="nearest"))
            y = refine(y if self.narrow else y + skip)
        y = torch.sigmoid(self.head(y))
        return y[..., :height, :width]


def _residual_features(channels: int, width: int, blocks: int) -> tuple[nn.Sequential, int]:
    """Build three stages of residual blocks; the second and third halve the resolution and double the channels."""
    return nn.Sequential(
        _conv(channels, width),
        *_blocks(blocks, width),
        _conv(width, 2 * width, stride=2),
        *_blocks(blocks, 2 * width),
        _conv(2 * width, 4 * width, stride=2),
        *_blocks(blocks, 4 * width),
    ), 4 * width


def _pooled_features(channels: int, width: int, blocks: int) -> tuple[nn.Sequential, int]:
    """Build three stages that pool right after their first convolution, which makes them cheap: after airbench.

    Jordan 2024 (arXiv 2404.00498), with ReLU for GELU. Its first layer is meant to be whitened, see `whiten`.
    """

    def stage(channels_in: int, channels_out: int) -> list[nn.Module]:
        pooled: list[nn.Module] = [
            nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        ]
        return pooled + [_conv(channels_out, channels_out) for _ in range(blocks)]

    patch = 2 * 2 * channels
    stem = [nn.Conv2d(channels, 2 * patch, 2), nn.ReLU()]
    return nn.Sequential(
        *stem, *stage(2 * patch, width), *stage(width, 4 * width), *stage(4 * width, 4 * width)
    ), 4 * width


@torch.no_grad()
def whiten(convolution: nn.Conv2d, images: Tensor, *, epsilon: float = 5e-4) -> None:
    """Fix a convolution's weights so that its outputs over the images' patches are uncorrelated, of unit variance.

    The first half of its output channels are the eigenvectors of the patches' covariance, each divided by the root of
    its eigenvalue plus `epsilon`; the second half their negatives, so that a ReLU loses nothing; after Jordan 2024
    (arXiv 2404.00498). The bias stays free. There are twice as many output channels as a patch has values; the images
    `[N, C, H, W]` are normalised; epsilon keeps noise from being blown up.
    """
    side, channels = convolution.kernel_size[0], images.shape[1]
    patches = F.unfold(images, side).transpose(1, 2).flatten(0, 1).double()  # channels outermost, as in a kernel
    values, vectors = torch.linalg.eigh(patches.T.cov())
    filters = (vectors / torch.sqrt(values + epsilon)).T.flip(0).reshape(-1, channels, side, side)
    convolution.weight.copy_(torch.cat([filters, -filters]))
    convolution.weight.requires_grad_(False)


def _separable_features(channels: int, width: int, blocks: int) -> tuple[nn.Sequential, int]:
    """Build three stages of depthwise separable convolutions, after MobileNet (Howard et al. 2017, 1704.04861)."""

    def separable(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels_in, channels_in, 3, stride, 1, groups=channels_in, bias=False),
            nn.BatchNorm2d(channels_in),
            nn.ReLU(),
            nn.Conv2d(channels_in, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        )

    layers = [_conv(channels, width)]
    for small, large in pairwise((width, 2 * width, 4 * width, 8 * width)):
        layers += [separable(small, large, stride=1 if small == width else 2)]
        layers += [separable(large, large) for _ in range(blocks)]
    return nn.Sequential(*layers), 8 * width


CLASSIFIERS: dict[str, Callable[[int, int, int], tuple[nn.Sequential, int]]] = {
    "residual": _residual_features,
    "pooled": _pooled_features,
    "separable": _separable_features,
}
"""Channels of the image, width and blocks -> features `[N, D, h, w]` and D."""


class Classifier(nn.Module):
    """A small classifier with its normalisation inside: `[N, C, H, W]` pixels -> `[N, K]` logits.

    Args:
        channels: of the image.
        classes: K.
        mean: of the training pixels, a value a channel, in [0, 1].
        std: the same for the standard deviation.
        width: channels of the first stage.
        blocks: residual blocks, or further convolutions, a stage.
        architecture: one of `CLASSIFIERS`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        width: int,
        blocks: int,
        architecture: str = "residual",
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, channels, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, channels, 1, 1))
        self.features, channels_out = CLASSIFIERS[architecture](channels, width, blocks)
        self.head = nn.Linear(channels_out, classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map `[N, C, H, W]` pixels in [0, 1] to `[N, K]` logits."""
        features = self.features((x_NCHW - self.mean) / self.std)
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits
