"""The small evaluation that ends a training: clean, grey-box and white-box accuracy by one attack."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from purify_toolkit.attacks.gradient import pgd
from purify_toolkit.data.splits import Split, batches
from purify_toolkit.device.generators import device_generator
from purify_toolkit.evaluate.stats import Counted
from purify_toolkit.networks.answers import Model, count_correct
from purify_toolkit.recipe import EvaluationTable


@dataclass(frozen=True)
class Row(Counted):
    """One accuracy. `attack` is "none" or names norm, size, steps and restarts."""

    threat: str  # one of `threats.THREATS`
    attack: str
    defended: bool


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
