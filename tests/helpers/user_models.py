"""Classifiers as users have them: not ours, with parts that a purifier's training must not touch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from purify_toolkit.runs.pretrained import open_run


class Tiny(nn.Module):
    """A small network with batch normalisation and dropout; takes normalised images."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(24 * 49, 10))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 1, 28, 28] -> [N, 10]`."""
        logits: Tensor = self.head(self.body(x))
        return logits


class Softmaxed(Tiny):
    """Gives probabilities."""

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 1, 28, 28] -> [N, 10]`."""
        return super().forward(x).softmax(1)


class Deaf(Tiny):
    """Has no gradient towards its image."""

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 1, 28, 28] -> [N, 10]`."""
        return super().forward(x.detach())


class NotANumber(Tiny):
    """Gives NaN."""

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 1, 28, 28] -> [N, 10]`."""
        return super().forward(x) * torch.nan


class ThreeClasses(Tiny):
    """Knows three classes only."""

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 1, 28, 28] -> [N, 3]`."""
        return super().forward(x)[:, :3]


def no_module() -> str:
    """Gives something else than a network."""
    return "a network"


def failing() -> nn.Module:
    """Cannot be built."""
    raise RuntimeError("no licence for this network")


class Viewing(nn.Module):
    """Takes colour images and flattens by view(), as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.module = nn.Linear(8 * 49, 4)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 3, 14, 14] -> [N, 4]`."""
        features = self.body(x)
        logits: Tensor = self.module(features.view(features.shape[0], -1))
        return logits


class Asserting(Tiny):
    """Fails without a word."""

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 1, 28, 28] -> [N, 10]`."""
        assert x.shape[-1] == 32
        return super().forward(x)


class Looping(Tiny):
    """Takes image by image, so that no graph of it has a dynamic batch."""

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 1, 28, 28] -> [N, 10]`."""
        return torch.cat([super(Looping, self).forward(image[None]) for image in x])


class Wrapping(nn.Module):
    """Calls its only part `module`, as DataParallel would."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(4, 2)


def trained_tiny(mean: float, std: float, *, epochs: int) -> Tiny:
    """A user's classifier, trained on 800 of the shipped images, normalised, in the user's own way."""
    torch.manual_seed(0)
    samples, network = open_run(None).load_samples(), Tiny()
    images, labels = (samples.images[:800] / 255 - mean) / std, samples.labels[:800]
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(epochs):
        for part in torch.randperm(800).split(50):
            optimizer.zero_grad()
            F.cross_entropy(network(images[part]), labels[part]).backward()
            optimizer.step()
    return network.eval()


class Enlarged(nn.Module):
    """The classifier of the pair that ships, for colour images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = open_run(None).new_classifier()

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 3, H, W] -> [N, 10]`."""
        small = F.interpolate(x, (28, 28), mode="bilinear", align_corners=False, antialias=True)
        logits: Tensor = self.classifier(small.mean(1, keepdim=True))
        return logits


class Brightness(nn.Module):
    """A classifier of six classes by how bright an image `[N, 3, H, W]` is: class k is brightness k / 5."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(100.0))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, 3, H, W] -> [N, 6]`."""
        return -self.sharpness * (x.mean((1, 2, 3))[:, None] - torch.linspace(0, 1, 6, device=x.device)).square()
