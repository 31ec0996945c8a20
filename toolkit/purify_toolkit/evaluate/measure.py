"""Measuring: one attack on so many test images, and which of them are classified right."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from purify_edge.pipeline.prediction import answers_of
from purify_edge.pipeline.sparing import spare
from purify_toolkit.attacks.base import Attack, AttackWarning
from purify_toolkit.attacks.norms import NORMS
from purify_toolkit.data.splits import Split, batches
from purify_toolkit.device.generators import seeded
from purify_toolkit.evaluate.accuracy import EvaluationRow
from purify_toolkit.evaluate.stats import Correct
from purify_toolkit.evaluate.threats import ROWS, THREATS, Subject

JUDGED = ("defended", "undefended", "spared")
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

    @property
    def is_row(self) -> bool:
        """Whether it is a row of the report, and not a point of a curve or a check."""
        return self.name == self.row


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
    spared: Correct | None = None  # the same for the rule that spares clean images; None where it was not asked for

    def rows(self) -> list[EvaluationRow]:
        """Return the row without the purifier, where there is one, then the row with it."""
        both = ((False, self.undefended), (True, self.defended))
        return [self._row(is_defended, correct) for is_defended, correct in both if correct is not None]

    def spared_rows(self) -> list[EvaluationRow]:
        """Return the row of the rule, where it was judged."""
        return [] if self.spared is None else [self._row(True, self.spared)]

    def _row(self, is_defended: bool, correct: Correct) -> EvaluationRow:
        n, right = len(correct), int(correct.sum())
        return EvaluationRow(self.plan.threat, str(self.plan.attack), is_defended, n=n, correct=right)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of its file."""
        content = {name: value for name, value in vars(self).items() if name != "plan"}
        return content | {name: None if content[name] is None else _text(content[name]) for name in JUDGED}

    @classmethod
    def from_dict(cls, plan: MeasurementPlan, content: dict[str, Any]) -> "Measurement":
        """Return the measurement that `as_dict` was called on."""
        arrays = {name: None if content.get(name) is None else _correct(content[name]) for name in JUDGED}
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
    subject = subject if plan.is_row else replace(subject, spare=None)
    threat, generator = THREATS[plan.threat], seeded(seed, plan.row, device=device)
    model, size, start = subject.target(threat.against), plan.attack.size, time.perf_counter()
    judged: dict[str, list[Correct]] = {name: [] for name in JUDGED}
    examples = list[Tensor]()
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
        for name, correct in _judge(subject, attacked, labels, undefended=threat.undefended).items():
            judged[name].append(correct)
        advance(len(labels))
    measurement = Measurement(
        plan,
        np.concatenate(judged["defended"]),
        np.concatenate(judged["undefended"]) if judged["undefended"] else None,
        float(np.max(distances)) if distances else None,  # which keeps a NaN, as np.min does
        (float(np.min(extremes)), float(np.max(extremes))),
        tuple(texts),
        round(time.perf_counter() - start, 2),
        np.concatenate(judged["spared"]) if judged["spared"] else None,
    )
    return measurement, torch.cat(examples)[:EXAMPLES]


def _judge(subject: Subject, images: Tensor, labels: Tensor, *, undefended: bool) -> dict[str, Correct]:
    """Return which images get their label, by who answers: of `JUDGED` what is asked for."""
    with torch.no_grad():
        purified = subject.pipeline(images).cpu().numpy()
        alone = subject.classifier(images).cpu().numpy() if undefended or subject.spare else None
    logits = {"defended": purified}
    if alone is not None and undefended:
        logits["undefended"] = alone
    if alone is not None and subject.spare:
        logits["spared"] = spare(alone, purified, subject.spare)
    truth = labels.cpu().numpy()
    return {name: answers_of(of) == truth for name, of in logits.items()}


def _texts(told: list[warnings.WarningMessage]) -> list[str]:
    """Return the attack's warnings, and pass all others on."""
    for other in told:
        if not issubclass(other.category, AttackWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return [str(warning.message) for warning in told if issubclass(warning.category, AttackWarning)]
