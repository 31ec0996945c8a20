"""What is to be measured: the rows that a user's words mean, and a plan for each."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec

from purify_edge.errors import InputError, MissingError
from purify_edge.shell.command import EXTRAS
from purify_toolkit.evaluate.gates import GREY, LARGE, WHITE
from purify_toolkit.evaluate.measure import MeasurementPlan
from purify_toolkit.evaluate.threats import ATTACKS, BARELY, ROWS, THREATS, Strength, attack_of
from purify_toolkit.recipe import nearest
from purify_toolkit.runs.folder import RunFolder

FRACTIONS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Sizes of the curves, in units of the evaluation's; Linf 0.5 besides."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """A question to `purify-eval`."""

    attacks: str = "default"  # words for `select`
    limit: int | None = None  # how many test images a row takes; None for all
    costly_limit: int = 1000  # how many the rows take that cost most
    curve_limit: int = 500  # how many the curves and the doubled steps take; 0 leaves them out
    l2_epsilon: float | None = None  # the L2 radius; None for the usual one
    l1_epsilon: float | None = None  # the L1 radius; as `l2_epsilon`
    transfer_from: RunFolder | None = None  # another run
    spare_clean: bool = False  # judge the rule that spares clean images too
    seed: int | None = None  # of all random choices; None for the run's
    resume: bool = False  # go on with what has been measured
    force: bool = False  # measure again what has been measured


DEFAULT = (
    "clean:none",
    "noise:uniform",
    "noise:gaussian",
    "grey-box:fgsm",
    "grey-box:pgd",
    "white-box:fgsm",
    "white-box:pgd",
    "bpda:pgd",
)


def select(words: str, *, transfer: bool, spare_clean: bool = False) -> list[str]:
    """Return the rows that words with commas between mean, in the table's order.

    The clean row is always among them, one of transfer where there is another run, and with the rule that spares clean
    images the attack that passes it most easily.

    A word is a row (`white-box:pgd`), a threat (`white-box`), an attack (`pgd`: under every threat that has it),
    `default` or `all`. `all` leaves out transfer where there is no other run.

    >>> select("bpda", transfer=False)
    ['clean:none', 'bpda:pgd']

    Raises:
        InputError: an unknown word; or one that means transfer and nothing else, without another run.
    """
    chosen = {"clean:none"} | ({"transfer:pgd"} if transfer else set())
    chosen |= {BARELY} if spare_clean else set()
    for word in filter(None, (part.strip() for part in words.split(","))):
        found = _meaning(word)
        possible = {row for row in found if transfer or ROWS[row][0] != "transfer"}
        if not possible:
            raise InputError(f"{word} needs another run to make its examples on: --transfer-from RUN")
        chosen |= possible
    return [row for row in ROWS if row in chosen]


def _meaning(word: str) -> set[str]:
    if word == "default":
        return set(DEFAULT)
    found = {row for row, (threat, attack) in ROWS.items() if word in (row, threat, attack, "all")}
    if not found:
        known = ["default", "all", *THREATS, *ATTACKS, *ROWS]
        raise InputError(
            f"no attack {word!r}{nearest(word, known)}; known: default, all, the threats {', '.join(THREATS)}, and the "
            f"attacks {', '.join(ATTACKS)}, also as THREAT:ATTACK"
        )
    return found


@dataclass(frozen=True)
class EvaluationPlan:
    """All that is to be measured, see `gates.Results`."""

    rows: dict[str, MeasurementPlan]
    curves: dict[str, dict[float, MeasurementPlan]]
    doubled: MeasurementPlan | None


def plans(rows: list[str], strength: Strength, question: EvaluationRequest, available: int) -> EvaluationPlan:
    """Plan the rows, and for PGD where it is among them the curves and the doubled steps."""
    n = min(available, question.limit or available)
    costly, few = min(n, question.costly_limit), min(n, question.curve_limit)

    def plan(name: str, row: str, n: int, strength: Strength = strength) -> MeasurementPlan:
        return MeasurementPlan(name, row, attack_of(row, strength), n)

    planned = {row: plan(row, row, costly if ATTACKS[ROWS[row][1]].costly else n) for row in rows}
    sizes = sorted({min(1.0, fraction * strength.epsilon) for fraction in FRACTIONS} | {LARGE})
    curves = {
        row: {size: plan(f"curve:{row}:{size:g}", row, few, replace(strength, epsilon=size)) for size in sizes}
        for row in (GREY, WHITE)
        if row in rows and few
    }
    twice = replace(strength, steps=2 * strength.steps)
    return EvaluationPlan(planned, curves, plan(f"doubled:{WHITE}", WHITE, few, twice) if WHITE in curves else None)


def check_libraries(planned: Iterable[MeasurementPlan]) -> None:
    """Raise MissingError where what a plan calls is not installed, before hours are spent on the others."""
    for plan in planned:
        needs = plan.attack.needs
        if needs is not None and find_spec(needs) is None:
            extra = EXTRAS[needs]
            raise MissingError(
                f"{plan.row} needs '{extra}': pip install 'purify-edge[{extra}]' ({needs} is not installed)"
            )
