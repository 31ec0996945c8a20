"""The section on accuracy under attack, as the run's own evaluation measured it."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from purify_edge.bundle.report import AccuracyRow, CurvePoint, Report
from purify_edge.check.page.checked_bundle import CheckedBundle
from purify_edge.check.page.plots import curve_plot
from purify_edge.document.model import Block, Plot, Plots, RowGroup, Section, Table, TableRow
from purify_edge.document.wording import percent, plural, with_interval

WITH, WITHOUT = "with purifier", "classifier alone"
ABOUT = {
    "noise": "nobody attacks",
    "corruptions": "nobody attacks",
    "spatial": "the worst of random rotations and shifts",
    "colour": "the worst of random changes of colour and light",
    "grey-box": "the attacker knows the classifier only",
    "printed": "the same, and the images come through a print and a camera",
    "transfer": "the attacker has another purifier and classifier",
    "query": "the attacker sees answers only",
    "white-box": "the attacker differentiates through purifier and classifier",
    "bpda": "white-box, with the identity for the purifier's gradient",
}
"""Threat -> what the attacker knows."""

Lines = Mapping[str, Sequence[CurvePoint]]


def accuracy_section(report: Report, about: CheckedBundle) -> Section | None:
    """Return what the run's evaluation found, and how accuracy falls with the attack's size."""
    blocks: list[Block] = []
    if report.accuracy:
        blocks.append(_attacks(report.accuracy, "answered as clean alone" if about.is_unlabelled else "right"))
    if report.curve:
        blocks.append(_curves(report.curve))
    title = "Agreement under attack" if about.is_unlabelled else "Accuracy under attack"
    return Section(title, tuple(blocks), intro=_intro(about), for_pages=True) if blocks else None


def _intro(about: CheckedBundle) -> str:
    resized = about.manifest.golden.resized
    where = f" The images had the size that the run was trained on; here they are resized {resized}." if resized else ""
    agreement = (
        "There were no labels: a right answer is what the classifier alone answers on the clean image, accuracy is "
        "agreement with that, and clean and alone it is 100% by construction. "
    )
    return (agreement if about.is_unlabelled else "") + (
        "Measured by the run's own evaluation, in PyTorch, not on this device; parity says whether it holds here too. "
        f"Under all attacks of a threat together, accuracy is at most the lowest line.{where}"
    )


def _attacks(rows: Sequence[AccuracyRow], right: str) -> Table:
    groups = tuple(
        RowGroup(
            f"{threat}: {ABOUT[threat]}" if threat in ABOUT else threat,
            tuple(_attack(list(found)) for _, found in groupby(of_threat, key=lambda row: (row.attack, row.n))),
        )
        for threat, of_threat in groupby(rows, key=lambda row: row.threat)
    )
    return Table(f"Test images {right}, in %, with 95% intervals (Wilson)", ("attack", "images", WITHOUT, WITH), groups)


def _attack(rows: Sequence[AccuracyRow]) -> TableRow:
    shares = {row.defended: with_interval(row.accuracy, row.ci95) for row in rows}
    return TableRow((rows[0].attack, f"{rows[0].n:,}", shares.get(False, ""), shares.get(True, "")))


def _curves(points: Sequence[CurvePoint]) -> Plots:
    by_threat: dict[str, dict[str, list[CurvePoint]]] = {}
    for point in sorted(points, key=lambda point: not point.defended):  # so that a line looks the same in each plot
        by_threat.setdefault(point.threat, {}).setdefault(WITH if point.defended else WITHOUT, []).append(point)
    largest = max(point.size for point in points)
    caption = "Accuracy against the attack's size in pixels in [0, 1]: right, in %, with 95% intervals"
    groups = tuple(RowGroup(threat, _sizes(lines)) for threat, lines in by_threat.items())
    return Plots(
        "Vertical lines are 95% intervals.",
        tuple(_curve(threat, lines, largest) for threat, lines in by_threat.items()),
        Table(caption, ("size", WITHOUT, WITH), groups),
    )


def _curve(threat: str, lines: Lines, largest: float) -> Plot:
    images = plural(next(iter(lines.values()))[0].n, "image")
    said = "; ".join(f"{name} {_falls(line)}" for name, line in lines.items())
    return Plot(
        f"{threat}, {images} a size",
        curve_plot(lines, largest=largest),
        f"Accuracy against the size of {threat} attacks: {said}",
    )


def _falls(line: Sequence[CurvePoint]) -> str:
    first, last = min(line, key=lambda point: point.size), max(line, key=lambda point: point.size)
    return f"from {percent(first.accuracy)}% at {first.size:g} to {percent(last.accuracy)}% at {last.size:g}"


def _sizes(lines: Lines) -> tuple[TableRow, ...]:
    found = {
        (name, point.size): with_interval(point.accuracy, point.ci95) for name, line in lines.items() for point in line
    }
    return tuple(
        TableRow((f"{size:g}", found.get((WITHOUT, size), ""), found.get((WITH, size), "")))
        for size in sorted({size for _, size in found})
    )
