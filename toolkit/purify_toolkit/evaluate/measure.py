"""Measuring: one attack on so many test images, and which of them are classified right."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from purify_toolkit.attacks.base import Attack, AttackWarning, Size
from purify_toolkit.attacks.norms import NORMS
from purify_toolkit.data.splits import Split, batches
from purify_toolkit.device.generators import seeded
from purify_toolkit.evaluate.accuracy import EvaluationRow
from purify_toolkit.evaluate.stats import Correct
from purify_toolkit.evaluate.threats import ROWS, THREATS, Subject

EXAMPLES = 16
"""Attacked images that are kept of each measurement."""


@dataclass(frozen=True)
class MeasurementPlan:
    """One measurement to make: a row of `threats.ROWS`, its attack, how many images. `name` is also its file's."""

    name: str
    row: str
    attack: Attack
    n: int

    @property
    def threat(self) -> str:
        """The threat's name."""
        return ROWS[self.row][0]


@dataclass(frozen=True)
class Measurement:
    """The result of a plan.

    Attributes:
        plan: what was to be measured.
        defended: which images the pipeline classifies right, `[N]`.
        undefended: likewise the classifier alone; None where the threat has no such row.
        distance: the largest of the attacked images' distances from the clean ones, in the attack's norm; None without.
        pixels: the attacked images' smallest and largest value.
        warnings: what a library said against its own result.
        seconds: how long it took.
    """

    plan: MeasurementPlan
    defended: Correct
    undefended: Correct | None
    distance: float | None
    pixels: tuple[float, float]
    warnings: tuple[str, ...]
    seconds: float

    def rows(self) -> list[EvaluationRow]:
        """Return the row without the purifier, where there is one, then the row with it."""
        both = ((False, self.undefended), (True, self.defended))
        return [
            EvaluationRow(
                self.plan.threat, str(self.plan.attack), is_defended, n=len(correct), correct=int(correct.sum())
            )
            for is_defended, correct in both
            if correct is not None
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the content of its file."""
        return {
            "defended": _text(self.defended),
            "undefended": None if self.undefended is None else _text(self.undefended),
            "distance": self.distance,
            "pixels": self.pixels,
            "warnings": self.warnings,
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, plan: MeasurementPlan, content: dict[str, Any]) -> "Measurement":
        """Return the measurement that `as_dict` was called on."""
        undefended = content["undefended"]
        low, high = content["pixels"]
        return cls(
            plan,
            _correct(content["defended"]),
            None if undefended is None else _correct(undefended),
            content["distance"],
            (low, high),
            tuple(content["warnings"]),
            content["seconds"],
        )


def _text(correct: Correct) -> str:
    return "".join("1" if right else "0" for right in correct)


def _correct(text: str) -> Correct:
    return np.array([character == "1" for character in text], dtype=np.bool_)


def measure(
    subject: Subject,
    test: Split,
    plan: MeasurementPlan,
    *,
    seed: int,
    device: torch.device,
    advance: Callable[[int], None],
) -> tuple[Measurement, Tensor]:
    """Attack the first `plan.n` test images and classify what comes of them.

    The generator depends on seed and row alone, so a row's figures do not depend on what else is measured.

    Args:
        subject: the networks, on `device`.
        test: at least `plan.n` images.
        plan: what to measure.
        seed: of the attack's random choices.
        advance: told the number of images done, after each batch.

    Returns:
        The measurement, and the first attacked images `[M, C, H, W]`, M at most `EXAMPLES`, on the CPU.
    """
    threat, generator = THREATS[plan.threat], seeded(seed, plan.row, device=device)
    model, tally, start = subject.target(threat.against), _Tally(plan.attack.size), time.perf_counter()
    for images, labels in batches(test[: plan.n], device):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", AttackWarning)
            attacked = plan.attack(model, images, labels, generator=generator)
        tally.add(images, attacked, _texts(told))
        tally.defended.append(right(subject.pipeline, attacked, labels))
        if threat.undefended:
            tally.undefended.append(right(subject.classifier, attacked, labels))
        advance(len(labels))
    return tally.measurement(plan, time.perf_counter() - start), torch.cat(tally.examples)[:EXAMPLES]


def _texts(told: list[warnings.WarningMessage]) -> list[str]:
    """Return the attack's warnings, and pass all others on."""
    for other in told:
        if not issubclass(other.category, AttackWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return [str(warning.message) for warning in told if issubclass(warning.category, AttackWarning)]


@torch.no_grad()
def right(model: nn.Module, images: Tensor, labels: Tensor) -> Correct:
    """Return which images `[N, C, H, W]` the model gives their label, `[N]`."""
    found: Correct = (model(images).argmax(1) == labels).cpu().numpy()
    return found


class _Tally:
    """Adds up a measurement batch by batch."""

    def __init__(self, size: Size | None) -> None:
        self.size = size
        self.defended: list[Correct] = []
        self.undefended: list[Correct] = []
        self.examples: list[Tensor] = []
        self.distance, self.low, self.high = 0.0, float("inf"), float("-inf")
        self.warnings: dict[str, None] = {}  # a set that keeps the order

    def add(self, clean: Tensor, attacked: Tensor, told: list[str]) -> None:
        """Take note of attacked images `[B, C, H, W]`."""
        if sum(map(len, self.examples)) < EXAMPLES:
            self.examples.append(attacked[:EXAMPLES].detach().cpu())
        if self.size is not None:
            distance = float(NORMS[self.size[0]].size(attacked - clean).max())
            self.distance = float(np.maximum(self.distance, distance))  # which keeps a NaN
        self.low = float(np.minimum(self.low, float(attacked.min())))
        self.high = float(np.maximum(self.high, float(attacked.max())))
        self.warnings.update(dict.fromkeys(told))

    def measurement(self, plan: MeasurementPlan, seconds: float) -> Measurement:
        """Return the whole."""
        return Measurement(
            plan,
            np.concatenate(self.defended),
            np.concatenate(self.undefended) if self.undefended else None,
            None if self.size is None else self.distance,
            (self.low, self.high),
            tuple(self.warnings),
            round(seconds, 2),
        )
