"""The report: headlines per threat model, the purifier's tax, gates, and what made them."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from purify_edge.pipeline.sparing import does_harm
from purify_toolkit.attacks.base import Size
from purify_toolkit.evaluate.accuracy import EvaluationRow
from purify_toolkit.evaluate.gates import Gate, Results
from purify_toolkit.evaluate.measure import Measurement
from purify_toolkit.evaluate.stats import Correct, Counted, mcnemar
from purify_toolkit.evaluate.threats import BARELY, THREATS

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Headline(Counted):
    """One threat model's accuracy: an image counts as right if it is under every attack of the threat and size."""

    threat: str
    defended: bool
    norm: str | None  # of the ball, as the size; None where nothing bounds the change
    size: float | None
    attacks: tuple[str, ...]  # the rows that it sums up, all of which were shown the n images


@dataclass(frozen=True)
class Tax:
    """What the purifier costs on clean images: both accuracies and McNemar's two-sided p."""

    n: int
    undefended: float
    defended: float
    p: float

    @property
    def points(self) -> float:
        """Of percent, lost by the purifier."""
        return 100 * (self.undefended - self.defended)


@dataclass(frozen=True)
class EvaluationReport:
    """All of an evaluation. `about` says what made it."""

    results: Results
    headlines: list[Headline]
    tax: Tax
    gates: list[Gate]
    about: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether no gate failed."""
        return all(gate.passed is not False for gate in self.gates)

    @property
    def harm(self) -> str:
        """What the rule that spares clean images does, if `purify-export` would refuse it; empty otherwise."""
        row = self.results.rows.get(BARELY)
        if row is None or row.spared is None or not does_harm(int(row.spared.sum()), int(row.defended.sum())):
            return ""
        return (
            f"--spare-clean does harm: under attacks that stop as soon as the classifier errs {row.spared.mean():.1%} "
            f"stay right with it, {row.defended.mean():.1%} without; purify-export writes no threshold for it"
        )

    @property
    def warnings(self) -> list[str]:
        """What libraries said against their own results."""
        return [f"{name}: {warning}" for name, row in self.results.rows.items() for warning in row.warnings]

    def as_dict(self) -> dict[str, Any]:
        """Return the content of evaluation.json."""
        return {
            "schema_version": SCHEMA_VERSION,
            "passed": self.passed,
            "headlines": [headline.as_dict() for headline in self.headlines],
            "tax": asdict(self.tax) | {"points": self.tax.points},
            "gates": [asdict(gate) for gate in self.gates],
            "warnings": self.warnings,
            "rows": [entry for row in self.results.rows.values() for entry in _entries(row, row.rows())],
            "curves": [
                {"size": size} | entry
                for curve in self.results.curves.values()
                for size, point in curve.items()
                for entry in _entries(point, point.rows())
            ],
            **self._spared(),
            "threats": {headline.threat: THREATS[headline.threat].about for headline in self.headlines},
            **self.about,
        }

    def _spared(self) -> dict[str, Any]:
        """Return what the rule that spares clean images makes of the same images; nothing where it was not judged."""
        measured = [row for row in self.results.rows.values() if row.spared is not None]
        if not measured:
            return {}
        cost = tax(self.results, "spared")
        return {
            "spared": {
                "headlines": [headline.as_dict() for headline in headlines(self.results, ("spared",))],
                "rows": [entry for row in measured for entry in _entries(row, row.spared_rows())],
                "tax": asdict(cost) | {"points": cost.points},
                "harm": self.harm,
            }
        }


def summarise(results: Results, gates: list[Gate], about: dict[str, Any]) -> EvaluationReport:
    """Sum up what was measured; `clean:none` must be among it."""
    return EvaluationReport(
        results, headlines(results), tax(results), gates, {"settings": asdict(results.strength)} | about
    )


def headlines(results: Results, judged: Sequence[str] = ("undefended", "defended")) -> list[Headline]:
    """Return the worst case over the attacks, image by image, per threat, size and model.

    Costly attacks are shown fewer images than others. Then one headline is of the attacks that were shown all images,
    another of all attacks on the images that each of them was shown.

    Args:
        results: of the evaluation.
        judged: fields of a measurement; "spared" is defended too.
    """
    groups: dict[tuple[str, Size | None, bool], dict[str, Correct]] = {}
    for name, row in results.rows.items():
        for field in judged:
            correct: Correct | None = getattr(row, field)
            if correct is not None:
                key = row.plan.threat, row.plan.attack.size, field != "undefended"
                groups.setdefault(key, {})[name] = correct
    return [
        _headline(threat, size, is_defended, n, {name: correct for name, correct in rows.items() if len(correct) >= n})
        for (threat, size, is_defended), rows in groups.items()
        for n in sorted(set(map(len, rows.values())), reverse=True)
    ]


def _headline(threat: str, size: Size | None, is_defended: bool, n: int, rows: dict[str, Correct]) -> Headline:
    norm, radius = size if size is not None else (None, None)
    right = np.all([correct[:n] for correct in rows.values()], axis=0)
    return Headline(threat, is_defended, norm, radius, tuple(rows), n=n, correct=int(right.sum()))


def tax(results: Results, judged: str = "defended") -> Tax:
    """Return what the purifier costs on clean images: always, or with the rule, "spared"."""
    clean = results.rows["clean:none"]
    found: Correct = getattr(clean, judged)
    assert clean.undefended is not None
    return Tax(len(found), float(clean.undefended.mean()), float(found.mean()), mcnemar(clean.undefended, found))


def _entries(measurement: Measurement, rows: Iterable[EvaluationRow]) -> list[dict[str, Any]]:
    more = {"name": measurement.plan.name, "seconds": measurement.seconds}
    return [row.as_dict() | more for row in rows]
