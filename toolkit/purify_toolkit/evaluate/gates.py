"""Sanity gates: what a sound evaluation cannot show. Each doubts the figures for a reason that has fooled people.

The reasons are those of Athalye, Carlini and Wagner 2018 (arXiv 1802.00420) and Carlini et al. 2019 (arXiv
1902.06705). Comparisons on the same images are McNemar tests, corrected for their number (Bonferroni), so that
chance alone fails a gate once in twenty sound evaluations at most.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from purify_edge.stats import wilson
from purify_toolkit.attacks.norms import NORMS
from purify_toolkit.data.pixels import to_float
from purify_toolkit.evaluate.measure import Measurement, MeasurementPlan
from purify_toolkit.evaluate.stats import Correct, p_of_rise
from purify_toolkit.evaluate.store import Store
from purify_toolkit.evaluate.threats import Strength

LEVEL = 0.05
"""Of all tests of one gate together."""

LARGE = 0.5
"""The Linf size at which any image can be made grey: nothing can resist there."""

SLACK = 1e-5
"""What rounding in float32 may add to a distance, as a fraction of the radius, or of 1 in a pixel."""

BROKEN = 0.1
"""Where there are many classes: more than so much accuracy left is more than an attack may leave undefended."""

LESS_KNOWN = ("noise", "grey-box", "transfer", "query", "bpda")
"""The threats whose attackers know less than a white-box one."""

GREY, WHITE = "grey-box:pgd", "white-box:pgd"


@dataclass(frozen=True)
class Results:
    """All measurements of an evaluation."""

    rows: dict[str, Measurement]  # by name, the full-strength rows
    strength: Strength  # of the attacks
    # by row and size, PGD at other sizes, on fewer images
    curves: dict[str, dict[float, Measurement]] = field(default_factory=dict)
    doubled: Measurement | None = None  # white-box PGD with twice the steps, on fewer images

    def all(self) -> list[Measurement]:
        """Return every measurement."""
        points = [point for curve in self.curves.values() for point in curve.values()]
        return [*self.rows.values(), *points, *([self.doubled] if self.doubled else [])]


@dataclass(frozen=True)
class Gate:
    """One doubt, answered. `passed` is None where the rows that it looks at were not run."""

    name: str
    value: float | None
    limit: float | None
    passed: bool | None
    explanation: str


def check(results: Results, store: Store) -> list[Gate]:
    """Answer all gates, in the order of `GATES`."""
    return [gate(results, store) for gate in GATES]


def falls_with_size(results: Results, store: Store) -> Gate:
    """Check that a larger attack leaves no more right, where it is made on the very model that it is shown to."""
    names = {GREY: "undefended", WHITE: "white-box"}
    pairs = [
        (f"{names[row]}: {smaller:g} to {larger:g}", _direct(curve[smaller]), _direct(curve[larger]))
        for row, curve in results.curves.items()
        for smaller, larger in pairwise(sorted(curve))
    ]
    return _no_rise("accuracy falls with the attack's size", pairs, "rises")


def chance_at_large_size(results: Results, store: Store) -> Gate:
    """Check that accuracy is chance at Linf 0.5, where every image can be made plain grey."""
    name = f"white-box accuracy reaches chance at Linf {LARGE:g}"
    point = results.curves.get(WHITE, {}).get(LARGE)
    if point is None:
        return _not_checked(name, WHITE)
    return _at_most(
        name, point.defended, 1 / results.strength.classes, "gradients are masked, or the attack is too weak"
    )


def single_step(results: Results, store: Store) -> Gate:
    """Check that one step finds no more than many; else the many were misled."""
    pairs = []
    for threat in ("grey-box", "white-box"):
        one, many = results.rows.get(f"{threat}:fgsm"), results.rows.get(f"{threat}:pgd")
        if one and many:
            pairs.append((f"{threat}, FGSM to PGD", _direct(one), _direct(many)))
    return _no_rise("a single step is no stronger than many", pairs, "is higher under PGD")


def white_box_strongest(results: Results, store: Store) -> Gate:
    """Check that an attacker who knows more breaks no less: noise, grey-box, transfer, queries, a guessed gradient.

    Against each stands the worst case over the white-box attacks of more than one step and of the same size, on
    the images that all of them saw.
    """
    pairs = []
    white = [row for name, row in results.rows.items() if row.plan.threat == "white-box" and name != "white-box:fgsm"]
    for name, other in results.rows.items():
        rivals = [row.defended for row in white if row.plan.attack.size == other.plan.attack.size]
        if other.plan.threat in LESS_KNOWN and other.plan.attack.size and rivals:
            n = min(map(len, [other.defended, *rivals]))
            worst: Correct = np.all([rival[:n] for rival in rivals], axis=0)
            pairs.append((f"{name} to white-box", other.defended[:n], worst))
    return _no_rise("white-box is no weaker than attacks that know less", pairs, "is higher under the white-box attack")


def doubled_steps(results: Results, store: Store) -> Gate:
    """Check that the attack has converged: it finds no more in twice the steps."""
    name = "twice the steps change nothing"
    row, doubled = results.rows.get(WHITE), results.doubled
    if row is None or doubled is None:
        return _not_checked(name, WHITE)
    n = min(len(doubled.defended), len(row.defended))
    before, after = row.defended[:n], doubled.defended[:n]
    low, high = wilson(int(before.sum()), n)
    change, limit = abs(float(after.mean() - before.mean())), (high - low) / 2
    explanation = (
        f"white-box accuracy {before.mean():.1%}, with {2 * results.strength.steps} steps {after.mean():.1%}, of {n} "
        f"images; half of its 95% interval is {100 * limit:.1f} points"
    )
    return Gate(name, change, limit, change <= limit, explanation)


def breaks_undefended(results: Results, store: Store) -> Gate:
    """Check that the attack breaks the classifier without a defence; else it says nothing of one with it."""
    name = "the attack breaks the undefended classifier"
    row = results.rows.get(GREY)
    if row is None or row.undefended is None:
        return _not_checked(name, GREY)
    limit = max(BROKEN, 1 / results.strength.classes)
    return _at_most(name, row.undefended, limit, "the attack is too weak, or the classifier is robust by itself")


def inside_ball(results: Results, store: Store) -> Gate:
    """Check that all attacked images lie in the stated ball and in [0, 1], and so do the saved ones, read again."""
    found = {}
    for measurement in results.all():
        found[measurement.plan.name] = _excess(measurement.plan, measurement.pixels, measurement.distance)
        found[f"{measurement.plan.name}, as saved"] = _saved_excess(measurement.plan, store)
    where = list(found)[int(np.argmax(list(found.values())))]  # a NaN is the largest
    worst = found[where]
    passed = worst <= SLACK
    explanation = f"{len(found)} sets of images are inside" if passed else f"{where}: outside by {worst:.2g}"
    value = None if np.isnan(worst) else worst
    return Gate("images lie in the ball and in [0, 1]", value, SLACK, passed, explanation)


def size_0_is_clean(results: Results, store: Store) -> Gate:
    """Check that an attack of size 0 changes nothing; else the evaluation is at fault, or the model is random."""
    name, clean = "size 0 is clean", results.rows.get("clean:none")
    points = [curve[0.0] for curve in results.curves.values() if 0.0 in curve]
    if clean is None or not points:
        return _not_checked(name, GREY, WHITE)
    differing = 0
    for point in points:
        for found, expected in ((point.defended, clean.defended), (point.undefended, clean.undefended)):
            if found is not None and expected is not None:
                differing += int((found != expected[: len(found)]).sum())
    return Gate(name, differing, 0, differing == 0, f"{differing} answers of {len(points)} attacks of size 0 differ")


def library_warnings(results: Results, store: Store) -> Gate:
    """Check that AutoAttack does not doubt its own result: zero gradients, a random model, probabilities."""
    name = "AutoAttack has no objections"
    rows = [row for key, row in results.rows.items() if key.endswith(":autoattack")]
    if not rows:
        return _not_checked(name, "autoattack")
    warnings = [f"{row.plan.name}: {warning}" for row in rows for warning in row.warnings]
    return Gate(name, len(warnings), 0, not warnings, "; ".join(warnings) or "it warned of nothing")


GATES: tuple[Callable[[Results, Store], Gate], ...] = (
    breaks_undefended,
    falls_with_size,
    chance_at_large_size,
    single_step,
    white_box_strongest,
    doubled_steps,
    size_0_is_clean,
    inside_ball,
    library_warnings,
)


def _direct(measurement: Measurement) -> Correct:
    """Return the answers of the model that the attack was made on."""
    grey = measurement.plan.threat == "grey-box" and measurement.undefended is not None
    return measurement.undefended if grey else measurement.defended  # type: ignore[return-value]


def _no_rise(name: str, pairs: Iterable[tuple[str, Correct, Correct]], what: str) -> Gate:
    """Pass if in no pair, the same images before and after, there are significantly more right after."""
    tests = [
        (p_of_rise(before, after), about, before.mean(), after.mean(), len(after)) for about, before, after in pairs
    ]
    if not tests:
        return _not_checked(name, "the rows it compares")
    p, about, before, after, n = min(tests)
    p = min(1.0, p * len(tests))
    if p == 1.0:
        return Gate(name, p, LEVEL, True, f"no rise worth a test in {len(tests)} comparisons")
    verdict = "no significant rise, the most in" if p >= LEVEL else f"accuracy {what}"
    explanation = f"{verdict}: {about}, {before:.1%} to {after:.1%} of {n} images, p = {p:.2g}"
    return Gate(name, p, LEVEL, p >= LEVEL, explanation)


def _at_most(name: str, correct: Correct, limit: float, doubt: str) -> Gate:
    """Pass if the accuracy's 95% interval reaches down to the limit."""
    accuracy, n = float(correct.mean()), len(correct)
    low, high = wilson(int(correct.sum()), n)
    passed = low <= limit
    explanation = f"{accuracy:.1%} of {n} images ({low:.1%} to {high:.1%}), at most {limit:.1%} expected"
    return Gate(name, accuracy, limit, passed, explanation if passed else f"{explanation}: {doubt}")


def _not_checked(name: str, *rows: str) -> Gate:
    return Gate(name, None, None, None, f"it needs {', '.join(rows)}")


def _excess(plan: MeasurementPlan, pixels: tuple[float, float], distance: float | None) -> float:
    """Return how far images lie outside the ball, as a fraction of the radius or of 1, or outside [0, 1]; 0 inside."""
    outside, size = [0.0, -pixels[0], pixels[1] - 1], plan.attack.size
    if size is not None and distance is not None:
        outside.append((distance - size[1]) / max(1.0, size[1]))
    return float(np.max(outside))  # which keeps a NaN


def _saved_excess(plan: MeasurementPlan, store: Store) -> float:
    clean, attacked, _ = store.load_examples(plan)
    size = plan.attack.size
    distance = None if size is None else float(NORMS[size[0]].size(attacked - to_float(clean)).max())
    return _excess(plan, (float(attacked.min()), float(attacked.max())), distance)
