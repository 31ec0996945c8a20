"""The pair that ships and some of its sample images, for tests that attack it."""

from dataclasses import dataclass

import torch
from torch import nn

from purify_toolkit.data.pixels import to_float
from purify_toolkit.networks.answers import Model
from purify_toolkit.runs.pretrained import open_run


@dataclass(frozen=True)
class Shipped:
    """Classifier, purifier then classifier, 200 test images and their labels."""

    classifier: nn.Module
    defended: nn.Module
    images: torch.Tensor
    labels: torch.Tensor

    def right(self, model: Model, images: torch.Tensor) -> torch.Tensor:
        """Which of the first images, attacked or not, the model gives their label."""
        with torch.no_grad():
            return model(images).argmax(1) == self.labels[: len(images)]


def open_shipped() -> Shipped:
    """Freshly loaded."""
    run = open_run(None)
    classifier, samples = run.load_classifier(), run.load_samples()
    defended = nn.Sequential(run.load_student(), classifier).eval()
    return Shipped(classifier, defended, to_float(samples.images[:200]), samples.labels[:200])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hyperplane(weight: torch.Tensor, offset: float = 0.0) -> Model:
    """Two classes told apart by a weighted sum of the pixels: who falls, and how near, is known."""

    def model(images: torch.Tensor) -> torch.Tensor:
        side = (images * weight).sum(dim=(1, 2, 3)) + offset
        return torch.stack([side, -side], dim=1)

    return model
