"""The small evaluation that ends a training: clean, grey-box and white-box accuracy by one attack."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.splits import Split, batches
from purify_toolkit.evaluate.stats import Counted
from purify_toolkit.networks.answers import count_correct

AGREEMENT = "agreement with the classifier's own answers on clean images"
"""What every accuracy is where a run has no labels but those answers; `measures` in metrics.json says it."""


@dataclass(frozen=True)
class EvaluationRow(Counted):
    """One accuracy. `attack` is "none" or names norm, size, steps and restarts."""

    threat: str  # one of `threats.THREATS`
    attack: str
    defended: bool


def evaluate(
    classifier: nn.Module,
    purifier: nn.Module,
    test: Split,
    attack: PGD,
    *,
    seed: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda images: None,
    white_box: bool = True,
) -> list[EvaluationRow]:
    """Measure classifier and pipeline: clean, grey-box (the attacker knows the classifier only), white-box if asked.

    Both networks are in evaluation mode, on `device`; both threats use the same attack, against different models. In
    the white box it leaves an image alone once the pipeline is wrong on it, because it costs most where all fall soon.
    `advance` gets the number of images done, after each batch.
    """
    defended, generator = nn.Sequential(purifier, classifier), torch.Generator(device).manual_seed(seed)
    attacks = {"grey-box": (attack, classifier)}
    if white_box:
        attacks["white-box"] = replace(attack, until_wrong=True), defended
    shown = {"clean": (False, True), "grey-box": (False, True), "white-box": (True,) if white_box else ()}
    correct = {(threat, is_defended): 0 for threat, both in shown.items() for is_defended in both}
    for images, labels in batches(test, device):
        seen = {"clean": images}
        for threat, (made, target) in attacks.items():
            seen[threat] = made(target, images, labels, generator=generator)
        for threat, is_defended in correct:
            model = defended if is_defended else classifier
            correct[threat, is_defended] += count_correct(model, seen[threat], labels)
        advance(len(labels))
    return [
        EvaluationRow(threat, str(attacks.get(threat, ["none"])[0]), is_defended, n=len(test), correct=count)
        for (threat, is_defended), count in correct.items()
    ]
