"""The part of a bundle's report.json that only the exporter can write."""

import msgspec

from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import AccuracyRow, Attempt, CurvePoint, KeptLayer, Report
from purify_edge.errors import BundleError


class Exported(msgspec.Struct, frozen=True):
    """Of a report.json what holds on any device; figures of the machine that exported are not read."""

    kept: tuple[KeptLayer, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    accuracy: tuple[AccuracyRow, ...] = ()
    curve: tuple[CurvePoint, ...] = ()


def exported(bundle: Bundle) -> Exported:
    """Return what the bundle's own report tells; nothing where it has none.

    Raises:
        BundleError: damaged, or not a report.
    """
    entry = bundle.manifest.report
    if entry is None:
        return Exported()
    try:
        return msgspec.json.decode(bundle.read(entry), type=Exported)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{entry.path} does not hold a report: {error}; export the bundle again") from error


def with_export(report: Report, told: Exported) -> Report:
    """Return a device's report with what the exporter told; of conversions that of the precisions in the report."""
    checked = {row.precision for row in report.parity}
    return msgspec.structs.replace(
        report,
        kept=tuple(layer for layer in told.kept if layer.precision in checked),
        attempts=tuple(attempt for attempt in told.attempts if attempt.precision in checked),
        accuracy=told.accuracy,
        curve=told.curve,
    )
