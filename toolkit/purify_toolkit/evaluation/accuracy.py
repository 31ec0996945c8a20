"""The small evaluation that ends a training: clean, grey-box and white-box accuracy by one attack."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from purify_toolkit.attacks.base import Model
from purify_toolkit.attacks.gradient import pgd
from purify_toolkit.data import Split
from purify_toolkit.evaluation.stats import Counted
from purify_toolkit.pixels import batch_size, to_float
from purify_toolkit.recipe import EvaluationTable


@dataclass(frozen=True)
class Row(Counted):
    """One accuracy. `attack` is "none" or names norm, size, steps and restarts."""

    threat: str  # one of `threats.THREATS`
    attack: str
    defended: bool


def device_generator(seed: int, device: torch.device) -> torch.Generator:
    """A seeded generator on `device`."""
    return torch.Generator(device).manual_seed(seed)


def batches(split: Split, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Images float `[B, C, H, W]` in [0, 1] and labels, on `device`, in order."""
    size = batch_size(split.images, device)
    for images, labels in zip(split.images.split(size), split.labels.split(size), strict=True):
        yield to_float(images, device), labels.to(device)


def attack_name(table: EvaluationTable) -> str:
    """Norm, size, steps and start of the evaluation's attack."""
    return f"PGD-{table.steps}, Linf {table.epsilon:g}, step {table.relative_step * table.epsilon:g}, 1 random start"


def attack(model: Model, images: Tensor, labels: Tensor, table: EvaluationTable, generator: torch.Generator) -> Tensor:
    """The table's PGD, see `attacks.pgd`."""
    return pgd(
        model,
        images,
        labels,
        epsilon=table.epsilon,
        steps=table.steps,
        relative_step=table.relative_step,
        generator=generator,
    )


def evaluate(
    classifier: nn.Module,
    purifier: nn.Module,
    test: Split,
    table: EvaluationTable,
    *,
    seed: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda images: None,
) -> list[Row]:
    """Accuracy of classifier and pipeline: clean, grey-box (the attacker knows the classifier only), white-box.

    Args:
        classifier, purifier: in evaluation mode, on `device`.
        test: the images.
        table: the attack; both threats use the same, against different models.
        seed: of the attacks' random starts.
        advance: told the number of images done, after each batch.
    """
    defended = nn.Sequential(purifier, classifier)
    generator = device_generator(seed, device)
    name = attack_name(table)
    keys = [
        ("clean", "none", False),
        ("clean", "none", True),
        ("grey-box", name, False),
        ("grey-box", name, True),
        ("white-box", name, True),
    ]
    correct = dict.fromkeys(keys, 0)
    for images, labels in batches(test, device):
        attacked = {
            threat: attack(model, images, labels, table, generator)
            for threat, model in (("grey-box", classifier), ("white-box", defended))
        } | {"clean": images}
        for key in keys:
            threat, _, is_defended = key
            correct[key] += count_correct(defended if is_defended else classifier, attacked[threat], labels)
        advance(len(labels))
    return [
        Row(threat, attack, is_defended, n=len(test), correct=count)
        for (threat, attack, is_defended), count in correct.items()
    ]


@torch.no_grad()
def count_correct(model: Model, images: Tensor, labels: Tensor) -> int:
    """How many images `[N, C, H, W]` the model gives their label."""
    return int((model(images).argmax(1) == labels).sum())
