"""Tiny networks and images, on which an evaluation takes a second, and purifiers that fool it."""

from pathlib import Path

import torch
from torch import Tensor, nn

from helpers.silent import Silent
from helpers.small_data import RECIPE
from purify_edge.files import write_json
from purify_toolkit.data.splits import Split
from purify_toolkit.evaluate.assess import measure_all
from purify_toolkit.evaluate.gates import GATES, Gate, Results, check
from purify_toolkit.evaluate.selection import EvaluationRequest, plans, select
from purify_toolkit.evaluate.store import Store
from purify_toolkit.evaluate.threats import Strength, Subject
from purify_toolkit.runs.folder import RunFolder

SIDE = 8
STRENGTH = Strength(epsilon=0.1, steps=10, relative_step=0.25, l2_epsilon=0.5, l1_epsilon=2.0, classes=3)


def linear(classes: int = 3) -> nn.Module:
    """A linear classifier of `[N, 1, 8, 8]`."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, classes)).eval().requires_grad_(False)


@torch.no_grad()
def images_for(classifier: nn.Module, count: int = 120) -> Split:
    """Random images, and what the classifier makes of them for labels; mid-grey, so that attacks have room."""
    images = torch.randint(64, 192, (count, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    return Split(images.to(torch.uint8), classifier(images / 255).argmax(1))


class Quantising(nn.Module):
    """Rounds pixels to a few levels: a purifier without gradient, that any attack gets past which does without."""

    def __init__(self, steps: int = 4) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]`, the same shape."""
        return (x * self.steps).round() / self.steps


class Noisy(nn.Module):
    """Gives another image each time."""

    def __init__(self, std: float = 0.2) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]`, the same shape."""
        return (x + self.std * torch.randn_like(x)).clamp(0, 1)


class Remembering(nn.Module):
    """Knows the clean images and brings back the nearest where the given one is further than 0.15 from it."""

    def __init__(self, known: Split) -> None:
        super().__init__()
        self.known = known.images / 255

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]`, the same shape."""
        distances = torch.cdist(x.detach().flatten(1), self.known.flatten(1), p=torch.inf)
        nearest, index = distances.min(1)
        return torch.where((nearest > 0.15).view(-1, 1, 1, 1), self.known[index], x)


def examine(
    folder: Path,
    *,
    attacks: str = "default",
    purifier: nn.Module | None = None,
    classifier: nn.Module | None = None,
    other: nn.Module | None = None,
    strength: Strength = STRENGTH,
    test: Split | None = None,
    question: EvaluationRequest | None = None,
) -> tuple[Results, dict[str, Gate]]:
    """Measure and check networks, tiny ones if none are given; the gates by the name of their function."""
    classifier = linear(strength.classes) if classifier is None else classifier
    test = images_for(classifier) if test is None else test
    subject = Subject(classifier=classifier, purifier=purifier or nn.Identity(), other=other)
    store = Store(folder, test, {}, 0)
    rows = select(attacks, transfer=other is not None)
    planned = plans(rows, strength, question or EvaluationRequest(), len(test))
    results = measure_all(subject, planned, strength, store, device=torch.device("cpu"), progress=Silent())
    return results, dict(zip((gate.__name__ for gate in GATES), check(results, store), strict=True))


def tiny_run(folder: Path, *, classes: int, channels: int, side: int = 12, seed: int = 0) -> RunFolder:
    """A run folder of small untrained networks."""
    folder.mkdir()
    run, shape = RunFolder(folder), [channels, side, side]
    names = [f"class {number}" for number in range(classes)]
    facts = {"recipe": "small", "recipe_sha256": "", "seed": seed, "limit": None, "dataset": "small", "commit": None}
    half = [0.5] * channels
    content = facts | {"class_names": names, "image_shape": shape, "mean": half, "std": half}
    write_json(folder / "run.json", content)
    (folder / "recipe.toml").write_text(RECIPE)
    torch.manual_seed(seed)
    run.save_weights("classifier", run.new_classifier())
    run.save_weights("student", run.new_purifier(run.recipe.student))
    return run


def random_images(*, classes: int, channels: int, side: int = 12, count: int = 6) -> Split:
    """Images of noise with labels at random."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, side, side), generator=generator).to(torch.uint8)
    return Split(images, torch.randint(0, classes, (count,), generator=generator))
