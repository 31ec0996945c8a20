"""The sections with pictures: accuracy under attack, examples, latency."""

from itertools import groupby

from purify_edge.bundle.report import AccuracyRow, CurvePoint, LatencyRow, Report
from purify_edge.check.page.document import Block, Group, Pictures, Plot, Plots, Row, Section, Table, Text
from purify_edge.check.page.plots import CUT, curve_plot, latency_plot
from purify_edge.check.page.subject import MAX_SIDE, Subject
from purify_edge.check.page.words import milliseconds, percent, plural, with_interval

WITH, WITHOUT = "with purifier", "classifier alone"
ABOUT = {
    "noise": "nobody attacks",
    "corruptions": "nobody attacks",
    "grey-box": "the attacker knows the classifier only",
    "transfer": "the attacker has another purifier and classifier",
    "query": "the attacker sees answers only",
    "white-box": "the attacker differentiates through purifier and classifier",
    "bpda": "white-box, with the identity for the purifier's gradient",
}
"""What the attacker knows."""


def accuracy(report: Report, subject: Subject) -> Section | None:
    """What the run's evaluation found, and how accuracy falls with the attack's size."""
    if not report.accuracy and not report.curve:
        return None
    blocks: list[Block] = [Text(_about(subject))]
    if report.accuracy:
        columns = ("attack", "images", WITHOUT, WITH)
        groups = tuple(
            Group(_named(threat), tuple(_attack_row(list(of_attack)) for _, of_attack in groupby(rows, key=_attack)))
            for threat, rows in groupby(report.accuracy, key=lambda row: row.threat)
        )
        blocks.append(Table("Test images right, in %, with 95% intervals (Wilson)", columns, groups))
    if report.curve:
        blocks += _curves(report.curve)
    return Section("Accuracy under attack", tuple(blocks))


def _about(subject: Subject) -> str:
    resized = subject.manifest.golden.resized
    where = f" The images had the size that the run was trained on; here they are resized {resized}." if resized else ""
    return (
        "Measured by the run's own evaluation, in PyTorch, not on this device; parity says whether it holds here too. "
        f"Under all attacks of a threat together, accuracy is at most the lowest line.{where}"
    )


def _named(threat: str) -> str:
    return f"{threat}: {ABOUT[threat]}" if threat in ABOUT else threat


def _attack(row: AccuracyRow) -> tuple[str, int]:
    return row.attack, row.n


def _attack_row(rows: list[AccuracyRow]) -> Row:
    shares = {row.defended: with_interval(row.accuracy, row.ci95) for row in rows}
    return Row((rows[0].attack, f"{rows[0].n:,}", shares.get(False, ""), shares.get(True, "")))


def _curves(points: tuple[CurvePoint, ...]) -> list[Block]:
    by_threat: dict[str, dict[str, list[CurvePoint]]] = {}
    for point in sorted(points, key=lambda point: not point.defended):  # so that a line looks the same in each plot
        by_threat.setdefault(point.threat, {}).setdefault(WITH if point.defended else WITHOUT, []).append(point)
    plots = tuple(
        Plot(
            f"{threat}, {plural(next(iter(lines.values()))[0].n, 'image')} a size",
            curve_plot(lines, largest=max(point.size for point in points)),
            f"Accuracy against the size of {threat} attacks: "
            + "; ".join(f"{name} {_falls(line)}" for name, line in lines.items()),
        )
        for threat, lines in by_threat.items()
    )
    groups = tuple(
        Group(
            threat, tuple(_size_row(size, lines) for size in sorted({p.size for line in lines.values() for p in line}))
        )
        for threat, lines in by_threat.items()
    )
    caption = "Accuracy against the attack's size in pixels in [0, 1]: right, in %, with 95% intervals"
    return [
        Plots("Vertical lines are 95% intervals.", plots),
        Table(caption, ("size", WITHOUT, WITH), groups, folded=True),
    ]


def _falls(line: list[CurvePoint]) -> str:
    first, last = min(line, key=lambda point: point.size), max(line, key=lambda point: point.size)
    return f"from {percent(first.accuracy)}% at {first.size:g} to {percent(last.accuracy)}% at {last.size:g}"


def _size_row(size: float, lines: dict[str, list[CurvePoint]]) -> Row:
    found = {name: point for name, line in lines.items() for point in line if point.size == size}
    shares = (
        with_interval(found[name].accuracy, found[name].ci95) if name in found else "" for name in (WITHOUT, WITH)
    )
    return Row((f"{size:g}", *shares))


def examples(report: Report, subject: Subject) -> Section | None:
    """The first golden images."""
    if not subject.examples or not report.parity:
        return None
    first = report.parity[0]
    side = max(subject.manifest.input.height, subject.manifest.input.width)
    shrunk = f" They are shrunk to {MAX_SIDE} pixels for this page." if side > MAX_SIDE else ""
    how = (
        f"The first {len(subject.examples)} images of the golden set, not chosen, as {first.engine} {first.precision} "
        f"sees them. Attack: {subject.manifest.golden.attack}. Under each image stands the classifier's word for it "
        f"and the probability; the word under purified is the pipeline's.{shrunk}"
    )
    return Section("Examples", (Text(how), Pictures(subject.examples)))


def latency(report: Report) -> Section | None:
    """Percentiles by engine, stage and batch size."""
    if not report.latency:
        return None
    first = report.latency[0]
    batches = sorted({row.batch for row in report.latency})
    plots = tuple(_latency_plot([row for row in report.latency if row.batch == batch], batch) for batch in batches)
    key = (
        "Dot: median. Stroke: 90th percentile. Circle: 99th percentile, or an arrow with its value where it lies "
        f"beyond {CUT:g} times the largest 90th percentile. The axes of different batch sizes differ."
    )
    how = (
        f"{plural(first.n, 'call')} of each stage, interleaved, after {first.warmup} to warm up. Absolute times tell "
        "of this machine as it was; compare within the table."
    )
    groups = tuple(
        Group(f"{engine} {precision}, batch {batch}", tuple(map(_latency_row, rows)))
        for (engine, precision, batch), rows in groupby(
            report.latency, key=lambda row: (row.engine, row.precision, row.batch)
        )
    )
    columns = ("stage", "p50 ms", "p90 ms", "p99 ms", "images/s")
    numbers = Table("Percentiles in ms a batch; images a second at the median", columns, groups, folded=True)
    return Section("Latency", (Text(how), Plots(key, plots), numbers))


def _latency_plot(rows: list[LatencyRow], batch: int) -> Plot:
    said = "; ".join(f"{row.engine} {row.precision} {row.stage} {milliseconds(row.p50_ms)}" for row in rows)
    return Plot(f"Batch of {plural(batch, 'image')}", latency_plot(rows), f"Median latency in ms: {said}")


def _latency_row(row: LatencyRow) -> Row:
    times = (milliseconds(value) for value in (row.p50_ms, row.p90_ms, row.p99_ms))
    return Row((row.stage, *times, f"{row.images_per_s:,.0f}"))
