"""What a report's page says, from the verdict down to the environment."""

from collections.abc import Iterator
from itertools import groupby

from purify_edge.bundle.report import SIMULATION, Check, ParityRow, Report
from purify_edge.check.page import measured
from purify_edge.check.page.document import Block, Bullets, Document, Figure, Group, Row, Section, Table, Text, table
from purify_edge.check.page.subject import Subject
from purify_edge.check.page.suspicion import suspicion
from purify_edge.check.page.unchecked import unchecked
from purify_edge.check.page.words import (
    Estimate,
    in_words,
    interval,
    milliseconds,
    moment,
    percent,
    plural,
    with_interval,
)
from purify_edge.stats import wilson

CAVEAT = (
    "A pass says that what runs here does what PyTorch did. It does not say that attacks fail: read the white-box "
    "accuracy, where it is given."
)
FAILED_CAVEAT = "Whether attacks fail is not among the limits: read the white-box accuracy, where it is given."


def document_of(report: Report, subject: Subject) -> Document:
    """The page's content."""
    manifest = subject.manifest
    parts = (
        _broken(report),
        _not_checked(report, subject),
        _parity(report),
        measured.accuracy(report, subject),
        measured.examples(report, subject),
        measured.latency(report),
        suspicion(report),
        _float32(report),
        _limits(report),
        _environment(report, subject),
    )
    return Document(
        title=manifest.name,
        subtitle=_subtitle(report, subject),
        passed=report.passed,
        verdict="Passed" if report.passed else "Failed",
        summary=_summary(report),
        figures=tuple(_figures(report)),
        sections=tuple(part for part in parts if part is not None),
        footer=CAVEAT if report.passed else FAILED_CAVEAT,
    )


def _subtitle(report: Report, subject: Subject) -> str:
    manifest = subject.manifest
    side = f"{manifest.input.height} x {manifest.input.width}"
    return (
        f"Purifier and classifier of {plural(len(manifest.class_names), 'class', 'classes')}, images of {side} pixels, "
        f"exported {moment(manifest.created)}; checked on {report.environment.get('processor', 'an unknown processor')}"
    )


def _summary(report: Report) -> str:
    broken = [check for check in report.checks if not check.passed]
    if not report.checks:
        return "No limit was checked."
    if broken:
        verb = "is" if len(broken) == 1 else "are"
        return f"{len(broken)} of {plural(len(report.checks), 'limit')} {verb} broken."
    engines = in_words(dict.fromkeys(row.engine for row in report.parity if row.engine != SIMULATION))
    precisions = in_words(dict.fromkeys(row.precision for row in report.parity if row.engine != SIMULATION))
    return f"All {plural(len(report.checks), 'limit')} hold: {engines}, {precisions}, compared with PyTorch."


def _figures(report: Report) -> Iterator[Figure]:
    """Accuracy without and with the purifier and latency, of the first engine; and the least white-box accuracy."""
    if not report.parity:
        return
    first = report.parity[0]
    of = f"{first.engine} {first.precision}"
    rows = {(row.role, row.split): row for row in report.parity if (row.engine, row.precision) == _key(first)}
    asked = (
        ("Clean, purified", "pipeline", "clean"),
        ("Attacked, no purifier", "classifier", "adversarial"),
        ("Attacked, purified", "pipeline", "adversarial"),
    )
    for name, role, split in asked:
        if (role, split) in rows:
            row = rows[role, split]
            share = row.accuracy_engine or 0.0
            yield _share(name, share, wilson(round(share * row.n), row.n), row.n)
    known = [row for row in report.accuracy if row.threat == "white-box" and row.defended]
    if known:
        worst = min(known, key=lambda row: row.accuracy)
        yield _share("Attacker knows the purifier", worst.accuracy, worst.ci95, worst.n, "; of PyTorch")
    for timed in report.latency:
        if (timed.engine, timed.precision, timed.stage, timed.batch) == (*_key(first), "pipeline", 1):
            yield Figure("Median latency", f"{milliseconds(timed.p50_ms)} ms", f"1 image, {of}")


def _share(name: str, share: float, bounds: tuple[float, float], n: int, more: str = "") -> Figure:
    note = f"right; {interval(*bounds)}% with 95% confidence, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n:,}{more}"
    return Figure(name, f"{percent(share)}%", note)


def _key(row: ParityRow) -> tuple[str, str]:
    return row.engine, row.precision


def _check_row(check: Check) -> Row:
    verdict = "holds" if check.passed else "broken"
    return Row((check.name, f"{check.value:.4g}", f"{check.limit:g}", verdict), broken=not check.passed)


CHECK_COLUMNS = ("limit of", "value", "limit", "verdict")


def _broken(report: Report) -> Section | None:
    rows = tuple(_check_row(check) for check in report.checks if not check.passed)
    if not rows:
        return None
    diverging = tuple(
        (
            f"{found.precision}, {found.split}",
            f"first diverging layer {found.node} ({found.operator}{_of(found.weight)}), error {found.error:.2g}, "
            f"tolerance {found.tolerance:g}",
        )
        for found in report.diverging
    )
    blocks: list[Block] = [table("Limits that do not hold", CHECK_COLUMNS, rows)]
    return Section("Broken limits", (*blocks, *([Bullets(diverging)] if diverging else [])))


def _of(weight: str) -> str:
    return f" of {weight}" if weight else ""


def _not_checked(report: Report, subject: Subject) -> Section:
    return Section("What was not checked", (Bullets(tuple(unchecked(report, subject))),))


def _parity(report: Report) -> Section | None:
    """A table an engine and precision, its rows by the images they are of."""
    broken = {check.name.partition(", ")[2] for check in report.checks if not check.passed}
    tables = []
    for (engine, precision), of_engine in groupby(report.parity, key=_key):
        rows = list(of_engine)
        groups = tuple(
            Group(f"{split}, {plural(n, 'image')}", tuple(_parity_row(row, broken) for row in of_split))
            for (split, n), of_split in groupby(rows, key=lambda row: (row.split, row.n))
        )
        simulated = " in float32, each weight and each tensor rounded" if engine == SIMULATION else ""
        columns = ("model", "right, PyTorch", "right, here", "same class", "relative error")
        tables.append(Table(f"{engine} {precision}{simulated}", columns, groups))
    how = (
        "Shares in % of the images. Same class: the share that gets the same class here and from PyTorch, with its 95% "
        "interval (Wilson). Relative error: root mean square, as a fraction of what differs between images; below it "
        "the largest difference, of logits, for the purifier of pixels in [0, 1]. Pipeline: purifier, then classifier. "
        "Defended: both as one graph. Classifier: without a purifier."
    )
    return Section("Parity with PyTorch", (Text(how), *tables)) if tables else None


def _parity_row(row: ParityRow, broken: set[str]) -> Row:
    largest = f"{row.max_abs_diff:.1e}"
    cells = (
        row.role,
        percent(row.accuracy_reference),
        percent(row.accuracy_engine),
        with_interval(row.agreement, row.agreement_ci95) if row.agreement is not None and row.agreement_ci95 else "",
        largest if row.relative_error is None else Estimate(f"{row.relative_error:.1e}", largest),
    )
    return Row(cells, broken=f"{row.engine} {row.precision} {row.role} {row.split}" in broken)


def _float32(report: Report) -> Section | None:
    """What the conversions left in float32, and what they tried."""
    blocks: list[Block] = []
    if report.kept:
        rows = tuple(
            Row(
                (f"{layer.precision} {layer.role}", f"{layer.node} ({layer.operator}{_of(layer.weight)})", layer.reason)
            )
            for layer in report.kept
        )
        blocks.append(table("Layers that stay in float32", ("model", "layer", "why"), rows, text_columns=3))
    if report.attempts:
        rows = tuple(
            Row(
                (
                    attempt.precision,
                    ", ".join(f"{split} {100 * drop:+.2f}" for split, drop in attempt.drop.items()),
                    f"{attempt.float32_layers} of {attempt.layers}",
                    f"{100 * attempt.limit:g}",
                    "holds" if attempt.passed else "broken",
                ),
                broken=not attempt.passed,
            )
            for attempt in report.attempts
        )
        caption = f"Conversions tried; drop of accuracy in points, {report.attempts[0].n} calibration images a split"
        columns = ("precision", "drop", "layers in float32", "limit", "verdict")
        blocks.append(table(caption, columns, rows, text_columns=2))
    return Section("Layers left in float32", tuple(blocks)) if blocks else None


def _limits(report: Report) -> Section | None:
    if not report.checks:
        return None
    rows = tuple(map(_check_row, report.checks))
    caption = f"All {plural(len(rows), 'limit')}; shares as fractions"
    return Section("Limits", (table(caption, CHECK_COLUMNS, rows, folded=True),))


def _environment(report: Report, subject: Subject) -> Section:
    here, manifest = report.environment, subject.manifest
    devices = here.get("devices", {})
    versions = here.get("versions", {})
    facts = {
        "processor": f"{here.get('processor', 'unknown')}, {here.get('cores', '?')} cores",
        "system": f"{here.get('system', 'unknown')}, {here.get('machine', '')}",
        "Python": here.get("python", "unknown"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "devices": ", ".join(f"{engine} on {device}" for engine, device in devices.items()),
        "bundle made by": ", ".join(f"{name} {version}" for name, version in manifest.producer.items()),
        "golden set": ", ".join(f"{n} {split}" for split, n in manifest.golden.splits.items()),
        "attack": manifest.golden.attack,
        "golden images resized": manifest.golden.resized,
    }
    rows = tuple(Row((name, str(value))) for name, value in facts.items() if value)
    return Section("Environment", (table("Where this was measured, and of what", ("", ""), rows, text_columns=2),))
