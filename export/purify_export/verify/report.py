"""What a verification found, and the document that says so."""

from collections.abc import Iterator
from typing import Any

import msgspec

from purify_edge.bundle.report import Check, Divergence, NotChecked, ParityRow
from purify_edge.check.page.content import CHECK_COLUMNS, check_row
from purify_edge.check.page.conversions import divergences
from purify_edge.document.model import Block, Bullets, Document, Section, TableRow, Verdict, table
from purify_edge.document.wording import in_words, percent, plural, with_interval


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
    """Return the report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def document_of(report: VerifyReport) -> Document:
    """Return what the pipeline did by threat, where layers diverge, and the broken limits by name."""
    engines = in_words(dict.fromkeys(row.engine for row in report.rows))
    broken = [check_row(check) for check in report.checks if not check.passed]
    sections = [Section(f"Purifier and classifier, {engines} against live PyTorch", tuple(_blocks(report)))]
    if broken:
        sections.append(Section("Broken limits", (table("Limits that do not hold", CHECK_COLUMNS, broken),)))
    summary = f"{len(report.checks) - len(broken)} of {plural(len(report.checks), 'limit')} hold"
    return Document(title=report.bundle, sections=tuple(sections), verdict=Verdict(report.passed, summary, of="parity"))


def _blocks(report: VerifyReport) -> Iterator[Block]:
    one_engine = len({row.engine for row in report.rows}) == 1
    columns = ("images", "model", "n", "right, PyTorch", "right, engine", "same class", "McNemar p", "error")
    rows = [_row(row, one_engine=one_engine) for row in report.rows if row.role == "pipeline"]
    yield table("Shares in %, with 95% intervals (Wilson)", columns, rows, text_columns=2)
    attacks = {row.split: row.attack for row in report.rows if row.attack != "none"}
    if attacks:
        yield Bullets(tuple(attacks.items()))
    yield divergences(report.diverging) if report.diverging else Bullets((("layer by layer", "no layer diverges"),))
    if report.not_checked:
        items = ((f"not checked here: {left.engine} {left.precision}", left.reason) for left in report.not_checked)
        yield Bullets(tuple(items))


def _row(row: VerifyRow, *, one_engine: bool) -> TableRow:
    agreement = with_interval(row.agreement or 0.0, row.agreement_ci95 or (0.0, 1.0))
    return TableRow(
        (
            row.split,
            row.precision if one_engine else f"{row.engine} {row.precision}",
            str(row.n),
            percent(row.accuracy_reference),
            percent(row.accuracy_engine),
            agreement,
            f"{row.mcnemar_p:.2f}",
            f"{row.relative_error:.0e}",
        )
    )
