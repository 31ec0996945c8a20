"""What a verification found, and how it is printed."""

from collections.abc import Iterator
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from purify_edge.bundle.report import Check, Divergence, NotChecked, ParityRow


class VerifyRow(ParityRow, frozen=True, kw_only=True):
    """One of the bundle's models against PyTorch, on so many test images of one threat, the `split`.

    `attack` is what was done to the images. `mcnemar_p` is the chance of so unequal answers, were the two equally
    accurate: only images that one of them has right and the other wrong say anything.
    """

    attack: str
    reference_ci95: tuple[float, float] | None = None
    engine_ci95: tuple[float, float] | None = None
    mcnemar_p: float | None = None


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `purify-verify --json` prints. `diverging` has the first layer of each precision that diverges."""

    environment: dict[str, Any]
    bundle: str
    run: str
    rows: tuple[VerifyRow, ...]
    checks: tuple[Check, ...]
    passed: bool
    diverging: tuple[Divergence, ...] = ()
    not_checked: tuple[NotChecked, ...] = ()


def encode(report: VerifyReport) -> bytes:
    """The report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def print_verification(report: VerifyReport, console: Console | None = None) -> None:
    """Print what the pipeline did by threat, where layers diverge, and the verdict; the broken limits by name."""
    console = console or Console()
    console.print(_table(report))
    for line in _lines(report):
        console.print(line, highlight=False, markup=False)
    broken = [check for check in report.checks if not check.passed]
    verdict = "[green]passed[/green]" if report.passed else "[red]FAILED[/red]"
    console.print(f"{verdict}: {len(report.checks) - len(broken)} of {len(report.checks)} limits hold", highlight=False)


def _table(report: VerifyReport) -> Table:
    engines = dict.fromkeys(row.engine for row in report.rows)
    table = Table(
        title=f"Purifier and classifier, {' and '.join(engines)} against live PyTorch; shares in %",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in ("images", "model"):
        table.add_column(column, no_wrap=True)
    for column in ("n", "PyTorch\nright", "engine\nright", "same\nclass", "95%\ninterval", "McNemar\np", "error"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in report.rows:
        if row.role != "pipeline" or row.agreement_ci95 is None:
            continue
        low, high = row.agreement_ci95
        table.add_row(
            row.split,
            row.precision if len(engines) == 1 else f"{row.engine} {row.precision}",
            str(row.n),
            *(f"{100 * (share or 0):.1f}" for share in (row.accuracy_reference, row.accuracy_engine, row.agreement)),
            f"{100 * low:.1f}-{100 * high:.1f}",
            f"{row.mcnemar_p:.2f}",
            f"{row.relative_error:.0e}",
        )
    return table


def _lines(report: VerifyReport) -> Iterator[str]:
    for threat, attack in {row.split: row.attack for row in report.rows if row.attack != "none"}.items():
        yield f"{threat}: {attack}"
    for found in report.diverging:
        of = f" of {found.weight}" if found.weight else ""
        yield (
            f"first diverging layer in {found.precision}: {found.node} ({found.operator}{of}), error "
            f"{found.error:.2g}, tolerance {found.tolerance:g}"
        )
    if not report.diverging:
        yield "no layer diverges"
    for left_out in report.not_checked:
        yield f"not checked here: {left_out.engine} {left_out.precision}: {left_out.reason}"
    for check in report.checks:
        if not check.passed:
            yield f"broken limit: {check.name}: {check.value:.4g}, limit {check.limit:g}"
