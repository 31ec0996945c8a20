"""Measuring: one attack on so many test images, and which of them are classified right."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from purify_toolkit.attacks.base import Attack, AttackWarning
from purify_toolkit.attacks.norms import NORMS
from purify_toolkit.data.splits import Split, batches
from purify_toolkit.device.generators import seeded
from purify_toolkit.evaluate.accuracy import EvaluationRow
from purify_toolkit.evaluate.stats import Correct
from purify_toolkit.evaluate.threats import ROWS, THREATS, Subject
from purify_toolkit.networks.answers import right

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
    """The result of a plan."""

    plan: MeasurementPlan  # what was to be measured
    defended: Correct  # which images the pipeline classifies right, `[N]`
    undefended: Correct | None  # the same for the classifier alone; None where the threat has no such row
    # the largest of the attacked images' distances from the clean ones, in the attack's norm; None without
    distance: float | None
    pixels: tuple[float, float]  # the attacked images' smallest and largest value
    warnings: tuple[str, ...]  # what a library said against its own result
    seconds: float  # how long it took

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
        undefended = None if self.undefended is None else _text(self.undefended)
        content = {name: value for name, value in vars(self).items() if name != "plan"}
        return content | {"defended": _text(self.defended), "undefended": undefended}

    @classmethod
    def from_dict(cls, plan: MeasurementPlan, content: dict[str, Any]) -> "Measurement":
        """Return the measurement that `as_dict` was called on."""
        undefended = content["undefended"]
        arrays = {
            "defended": _correct(content["defended"]),
            "undefended": None if undefended is None else _correct(undefended),
        }
        low, high = content["pixels"]
        return cls(plan, **content | arrays | {"pixels": (low, high), "warnings": tuple(content["warnings"])})


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

    Returns:
        The measurement, and the first attacked images `[M, C, H, W]`, M at most `EXAMPLES`, on the CPU.
    """
    threat, generator = THREATS[plan.threat], seeded(seed, plan.row, device=device)
    model, size, start = subject.target(threat.against), plan.attack.size, time.perf_counter()
    defended, undefended, examples = list[Correct](), list[Correct](), list[Tensor]()
    extremes, distances = list[tuple[float, float]](), list[float]()
    texts: dict[str, None] = {}  # a set that keeps the order
    for images, labels in batches(test[: plan.n], device):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", AttackWarning)
            attacked = plan.attack(model, images, labels, generator=generator)
        texts |= dict.fromkeys(_texts(told))
        extremes.append((float(attacked.min()), float(attacked.max())))
        if size is not None:
            distances.append(float(NORMS[size[0]].size(attacked - images).max()))
        if sum(map(len, examples)) < EXAMPLES:
            examples.append(attacked[:EXAMPLES].detach().cpu())
        defended.append(right(subject.pipeline, attacked, labels))
        if threat.undefended:
            undefended.append(right(subject.classifier, attacked, labels))
        advance(len(labels))
    measurement = Measurement(
        plan,
        np.concatenate(defended),
        np.concatenate(undefended) if undefended else None,
        float(np.max(distances)) if distances else None,  # which keeps a NaN, as np.min does
        (float(np.min(extremes)), float(np.max(extremes))),
        tuple(texts),
        round(time.perf_counter() - start, 2),
    )
    return measurement, torch.cat(examples)[:EXAMPLES]


def _texts(told: list[warnings.WarningMessage]) -> list[str]:
    """Return the attack's warnings, and pass all others on."""
    for other in told:
        if not issubclass(other.category, AttackWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return [str(warning.message) for warning in told if issubclass(warning.category, AttackWarning)]
