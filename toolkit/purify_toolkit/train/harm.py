"""Harm: whether a purifier takes more than it gives, judged on validation images, which it was not trained on."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from purify_toolkit.data.splits import Split, batches
from purify_toolkit.evaluate.stats import p_of_rise
from purify_toolkit.networks.answers import right
from purify_toolkit.train.stages import Validation

MAX_CLEAN_DROP = 0.03
MAX_ADAPTIVE_DROP = 0.2
"""Of an adaptive recipe, which trades clean accuracy for robustness against an attacker who has the purifier."""
CHANCE = 0.05
"""From this p of McNemar's exact test (one-sided) on, a difference may be chance: few images are not judged hastily."""


@dataclass(frozen=True)
class Paired:
    """Which of the same images are right alone, and which purified; both `[N]`."""

    alone: NDArray[np.bool_]
    purified: NDArray[np.bool_]

    @property
    def drop(self) -> float:
        """The accuracy that the purifier takes, as a fraction; negative where it gives."""
        return float(self.alone.mean() - self.purified.mean())

    @property
    def is_worse(self) -> bool:
        """Whether more images are right alone than purified, and more than chance explains."""
        return p_of_rise(self.purified, self.alone) < CHANCE

    def __str__(self) -> str:
        """Describe both accuracies."""
        alone, purified = 100 * self.alone.mean(), 100 * self.purified.mean()
        return f"{alone:.1f}% right without it, {purified:.1f}% with it, n = {len(self.alone)}"


def harm_of(
    purifier: nn.Module, validation: Validation, *, max_clean_drop: float, measure: str = "clean accuracy"
) -> Iterator[str]:
    """Yield a sentence for each harm that a purifier does on validation images: to clean ones, or no good to attacked.

    Args:
        purifier: in evaluation mode, on the validation's device, as is its classifier.
        validation: images, classifier and attack.
        max_clean_drop: how much clean accuracy it may take, as a fraction.
        measure: what to call that in the sentence; labels may be the classifier's own answers.
    """
    clean, attacked = (_paired(purifier, validation, split) for split in (validation.split, validation.attacked))
    if clean.drop > max_clean_drop and clean.is_worse:
        yield (
            f"the purifier takes {100 * clean.drop:.1f} points of {measure}, more than {100 * max_clean_drop:g} "
            f"(validation images: {clean})"
        )
    if attacked.drop >= 0 and not attacked.alone.all():
        yield f"the purifier gives attacked images nothing (validation images: {attacked})"


def _paired(purifier: nn.Module, validation: Validation, split: Split) -> Paired:
    pipeline = nn.Sequential(purifier, validation.classifier)
    found = [
        (right(validation.classifier, images, labels), right(pipeline, images, labels))
        for images, labels in batches(split, validation.device)
    ]
    alone, purified = (np.concatenate(column) for column in zip(*found, strict=True))
    return Paired(alone, purified)
