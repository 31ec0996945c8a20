"""Small networks, trained within a second on images that are easy to tell apart: their exports pass the gate."""

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.tiny import tiny_run
from purify_edge.bundle.manifest import Preprocessing
from purify_toolkit.data.splits import Split
from purify_toolkit.runs.folder import RunFolder, Samples

CLASSES = 4
SIDE = 12
PREPROCESSING = Preprocessing(resize="shortest", scaled=(14, 14), interpolation="bicubic")


def quadrants(*, channels: int, count: int, seed: int = 0) -> Split:
    """Images of noise with one quadrant brighter: its number is the label."""
    generator = torch.Generator().manual_seed(seed)
    labels, half = torch.randint(0, CLASSES, (count,), generator=generator), SIDE // 2
    images = 0.4 * torch.rand((count, channels, SIDE, SIDE), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = half * (label // 2), half * (label % 2)
        image[:, top : top + half, left : left + half] += 0.4
    return Split((images * 255).round().to(torch.uint8), labels)


class SomeClassifier(nn.Module):
    """Somebody's classifier `[N, C, 12, 12] -> [N, 4]`, normalisation inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, channels, 1, 1), 0.3))
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(16 * 9, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body((x - self.mean) / 0.2))
        return logits


class SomePurifier(nn.Module):
    """Somebody's purifier: adds a correction, and clips."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
            nn.Conv2d(6, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.layers(x)).clamp(0, 1)


class Saturating(nn.Module):
    """A classifier `[N, 1, 12, 12] -> [N, 4]` whose middle layers, in INT8, exceed 16 bits with every two products.

    Large inputs and large weights, all positive: what adds products in 16 bits gives the same for every image.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        sizes = (1, width, width, width)
        self.layers = nn.Sequential(*(nn.Conv2d(*pair, 1) for pair in pairwise(sizes)))
        self.head = nn.Linear(CLASSES * width, CLASSES)
        for name, values in self.named_parameters():
            nn.init.constant_(values, 0 if name.endswith("bias") else 1 / values.shape[1])
        with torch.no_grad():
            self.head.weight[:] = 10 / width * torch.eye(CLASSES).repeat(1, width)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(F.avg_pool2d(self.layers(x), SIDE // 2).flatten(1))
        return logits


class Blur(nn.Module):
    """A purifier `[N, 1, H, W]` that takes the mean of neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)
        nn.init.constant_(self.layer.weight, 1 / 9)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.layer(x)
        return image


def train(purifier: nn.Module, classifier: nn.Module, *, channels: int, steps: int = 60) -> None:
    """Train both, the purifier to take noise away; they end in evaluation mode, frozen."""
    split = quadrants(channels=channels, count=256, seed=1)
    images, generator = split.images / 255, torch.Generator().manual_seed(2)
    optimizer = torch.optim.Adam([*purifier.parameters(), *classifier.parameters()], lr=1e-2)
    for _ in range(steps):
        index = torch.randint(0, len(images), (64,), generator=generator)
        clean = images[index]
        noisy = (clean + 0.2 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
        answers = F.cross_entropy(classifier(clean), split.labels[index], label_smoothing=0.1)
        loss = answers + 10 * F.mse_loss(purifier(noisy), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for network in (purifier, classifier):
        network.eval().requires_grad_(False)


def some_pair(channels: int) -> tuple[nn.Module, nn.Module]:
    """A trained purifier and classifier that are not ours."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        purifier, classifier = SomePurifier(channels), SomeClassifier(channels)
        train(purifier, classifier, channels=channels)
    return purifier, classifier


def small_run(folder: Path, *, channels: int = 1, count: int = 400) -> RunFolder:
    """A run folder of small networks of ours, trained, with so many test images."""
    run = tiny_run(folder, classes=CLASSES, channels=channels, side=SIDE)
    purifier, classifier = run.load_student().train(), run.load_classifier().train()
    for network in (purifier, classifier):
        network.requires_grad_(True)
    train(purifier, classifier, channels=channels)
    run.save_weights("student", purifier)
    run.save_weights("classifier", classifier)
    split = quadrants(channels=channels, count=count)
    run.save_samples(Samples(split.images, split.labels, torch.arange(count)))
    return run
