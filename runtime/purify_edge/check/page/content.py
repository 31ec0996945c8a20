"""What a check's report says, from the verdict down to the environment."""

from collections.abc import Iterator, Mapping
from typing import Any

from purify_edge.bundle.report import SIMULATION, SPARED, Check, ParityRow, Report
from purify_edge.check.page.accuracy import accuracy_section
from purify_edge.check.page.checked_bundle import CheckedBundle
from purify_edge.check.page.conversions import conversions_section, divergences
from purify_edge.check.page.examples import examples_section
from purify_edge.check.page.latency import energy_section, latency_section
from purify_edge.check.page.not_checked import not_checked_section
from purify_edge.check.page.parity import key_of, parity_section
from purify_edge.check.page.plan import plan_section
from purify_edge.check.page.suspicion import suspicion_section
from purify_edge.document.model import Block, Document, KeyFigure, Section, TableRow, Verdict, table
from purify_edge.document.wording import in_words, interval, milliseconds, moment, percent, plural
from purify_edge.stats import wilson

CAVEAT = (
    "A pass says that what runs here does what PyTorch did. It does not say that attacks fail: read the white-box "
    "accuracy, where it is given."
)
FAILED_CAVEAT = "Whether attacks fail is not among the limits: read the white-box accuracy, where it is given."
CHECK_COLUMNS = ("limit of", "value", "limit", "verdict")


def document_of(report: Report, about: CheckedBundle) -> Document:
    """Return the report of a check as a document; it runs no model and opens no bundle."""
    sections = (
        _broken(report),
        not_checked_section(report, about),
        plan_section(report),
        parity_section(report),
        accuracy_section(report, about),
        examples_section(report, about),
        latency_section(report),
        energy_section(report),
        suspicion_section(report),
        conversions_section(report),
        _limits(report),
        _environment(report, about),
    )
    return Document(
        title=about.manifest.name,
        subtitle=_subtitle(report, about),
        verdict=Verdict(report.passed, _summary(report), of="parity"),
        figures=tuple(_figures(report)),
        sections=tuple(section for section in sections if section is not None),
        caveat=CAVEAT if report.passed else FAILED_CAVEAT,
    )


def _subtitle(report: Report, about: CheckedBundle) -> str:
    manifest = about.manifest
    right = "; right is what the classifier alone answers on the clean image" if about.is_unlabelled else ""
    side = f"{manifest.input.height} x {manifest.input.width}"
    return (
        f"Purifier and classifier of {plural(len(manifest.class_names), 'class', 'classes')}, images of {side} pixels, "
        f"exported {moment(manifest.created)}; checked on {report.environment.get('processor', 'an unknown processor')}"
        f"{right}"
    )


def _summary(report: Report) -> str:
    broken = [check for check in report.checks if not check.passed]
    if not report.checks:
        return "No limit was checked."
    if broken:
        verb = "is" if len(broken) == 1 else "are"
        return f"{len(broken)} of {plural(len(report.checks), 'limit')} {verb} broken."
    left_out = {(left.engine, left.precision) for left in report.not_checked}
    judged = [row for row in report.parity if row.engine != SIMULATION and key_of(row) not in left_out]
    engines = in_words(dict.fromkeys(row.engine for row in judged))
    precisions = in_words(dict.fromkeys(row.precision for row in judged))
    return f"All {plural(len(report.checks), 'limit')} hold: {engines}, {precisions}, compared with PyTorch."


def _figures(report: Report) -> Iterator[KeyFigure]:
    """Yield accuracies, the purifier's price and latency of the first engine, and the lowest white-box accuracy."""
    if not report.parity:
        return
    first = report.parity[0]
    rows = {(row.role, row.split): row for row in report.parity if key_of(row) == key_of(first)}
    alone = rows.get(("classifier", "clean"))
    for name, role, split in (
        ("Clean, classifier alone", "classifier", "clean"),
        ("Clean, purified", "pipeline", "clean"),
        ("Attacked, classifier alone", "classifier", "adversarial"),
        ("Attacked, purified", "pipeline", "adversarial"),
        ("Clean, with --spare-clean", SPARED, "clean"),
        ("Attacked, with --spare-clean", SPARED, "adversarial"),
    ):
        if (role, split) in rows:
            row = rows[role, split]
            share = row.accuracy_engine or 0.0
            price = _price(alone, row) if alone and split == "clean" and role != "classifier" else ""
            yield _share(name, share, wilson(round(share * row.n), row.n), row.n, price)
    known = [row for row in report.accuracy if row.threat == "white-box" and row.defended]
    if known:
        worst = min(known, key=lambda row: row.accuracy)
        yield _share("Attacker knows the purifier", worst.accuracy, worst.ci95, worst.n, "; of PyTorch")
    for timed in report.latency:
        if (timed.engine, timed.precision, timed.stage, timed.batch) == (*key_of(first), "pipeline", 1):
            note = f"1 image, {first.engine} {first.precision}"
            yield KeyFigure("Median latency", f"{milliseconds(timed.p50_ms)} ms", note)


def _price(alone: ParityRow, purified: ParityRow) -> str:
    """Return a sentence on what the purifier costs on clean images."""
    points = 100 * ((alone.accuracy_engine or 0.0) - (purified.accuracy_engine or 0.0))
    verb = "costs" if points >= 0 else "gains"
    return f"; {verb} {abs(points):.1f} points"


def _share(name: str, share: float, bounds: tuple[float, float], n: int, more: str = "") -> KeyFigure:
    note = f"right; {interval(*bounds)}% with 95% confidence, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n:,}{more}"
    return KeyFigure(name, f"{percent(share)}%", note)


def check_row(check: Check) -> TableRow:
    """Return a limit as a row under CHECK_COLUMNS."""
    verdict = "holds" if check.passed else "broken"
    return TableRow((check.name, f"{check.value:.4g}", f"{check.limit:g}", verdict), broken=not check.passed)


def _broken(report: Report) -> Section | None:
    rows = [check_row(check) for check in report.checks if not check.passed]
    blocks: list[Block] = [table("Limits that do not hold", CHECK_COLUMNS, rows)] if rows else []
    if report.diverging:
        blocks.append(divergences(report.diverging))
    return Section("Broken limits", tuple(blocks)) if blocks else None


def _limits(report: Report) -> Section | None:
    if not report.checks:
        return None
    caption = f"All {plural(len(report.checks), 'limit')}; shares as fractions"
    return Section("Limits", (table(caption, CHECK_COLUMNS, map(check_row, report.checks), folded=True),))


def _environment(report: Report, about: CheckedBundle) -> Section:
    here, manifest = report.environment, about.manifest
    devices, versions = here.get("devices", {}), here.get("versions", {})
    facts = {
        "processor": f"{here.get('processor', 'unknown')}, {here.get('cores', '?')} cores",
        "system": f"{here.get('system', 'unknown')}, {here.get('machine', '')}",
        "Python": here.get("python", "unknown"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "devices": ", ".join(f"{engine} on {device}" for engine, device in devices.items()),
        **_power(here.get("power", {})),
        "bundle made by": ", ".join(f"{name} {version}" for name, version in manifest.producer.items()),
        "pictures": manifest.input.way,
        "classifier": _own_classifier(manifest.provenance),
        "golden set": ", ".join(f"{n} {split}" for split, n in manifest.golden.splits.items()),
        "attack": manifest.golden.attack,
        "golden images resized": manifest.golden.resized,
    }
    rows = [(name, str(value)) for name, value in facts.items() if value]
    return Section("Environment", (table("Where this was measured, and of what", ("", ""), rows, text_columns=2),))


def _power(power: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts that energy and speed depend on; empty ones where they are not known."""
    limit = power.get("gpu_limit_w")
    return {
        "power mode": power.get("mode", ""),
        "limit of the GPU's power": f"{limit:g} W" if limit else "",
        "temperatures": ", ".join(
            f"{zone} {value:.0f} \N{DEGREE SIGN}C" for zone, value in power.get("temperatures_c", {}).items()
        ),
        "meters of energy": "; ".join((*power.get("meters", ()), *power.get("not_readable", ()))),
    }


def _own_classifier(provenance: Mapping[str, Any]) -> str:
    """Return what the user's own classifier came from, and the SHA-256 of its file; empty where there is none.

    Provenance may be any facts, of any shape: see `Origin`.
    """
    run = provenance.get("run")
    own = run.get("classifier") if isinstance(run, dict) else None
    if not isinstance(own, dict):
        return ""
    found = {"": own.get("factory"), "file SHA-256 ": own.get("file_sha256"), "weights ": own.get("weights_sha256")}
    return ", ".join(f"{name}{value}" for name, value in found.items() if value)
