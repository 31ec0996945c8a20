"""What only the exporter can tell of a bundle, as its report.json says it."""

from typing import Any

import msgspec

from purify_runtime.bundle import Bundle
from purify_runtime.errors import BundleError
from purify_runtime.report import Report


def exported_report(bundle: Bundle) -> Report | None:
    """The report that the bundle was exported with; None where it has none.

    Raises:
        BundleError: damaged, or not a report.
    """
    entry = bundle.manifest.report
    if entry is None:
        return None
    try:
        return msgspec.json.decode(bundle.read(entry), type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{entry.path} does not hold a report: {error}; export the bundle again") from error


def with_export(report: Report, exported: Report | None) -> Report:
    """The report of a device with what the exporter told: the run's evaluation, and layers left in float32.

    Conversions to precisions that the device did not check are left out.
    """
    if exported is None:
        return report
    checked = {row.precision for row in report.parity}
    told: dict[str, Any] = {
        name: tuple(item for item in getattr(exported, name) if item.precision in checked)
        for name in ("kept", "attempts", "diverging")
    }
    return msgspec.structs.replace(report, accuracy=exported.accuracy, curve=exported.curve, **told)
