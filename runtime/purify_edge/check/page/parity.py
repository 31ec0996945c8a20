"""The section on parity: each model on this device against PyTorch."""

from itertools import groupby

from purify_edge.bundle.report import SIMULATION, ParityRow, Report
from purify_edge.document.model import Estimate, RowGroup, Section, Table, TableRow
from purify_edge.document.wording import percent, plural, with_interval

INTRO = (
    "Shares in % of the images. Same class: the share that gets PyTorch's class here, or one that ties with it, with "
    "its 95% interval (Wilson). Relative error: root mean square, as a fraction of what differs between images, and "
    "the largest difference, of logits, for the purifier of pixels in [0, 1]. Pipeline: purifier, then classifier. "
    "Defended: both as one graph. Classifier: without a purifier."
)


SIMULATED = {"int8": "computed in float32, as the graph is written"}
"""What a simulation does, by precision; in 16 bits it rounds."""
ROUNDED = "simulated in float32: each weight and each tensor rounded"


def key_of(row: ParityRow) -> tuple[str, str]:
    """Return the engine and the precision of a row."""
    return row.engine, row.precision


def parity_section(report: Report) -> Section | None:
    """Return a table for each engine and precision, its rows grouped by the images."""
    broken = {check.name.partition(", ")[2] for check in report.checks if not check.passed}
    tables = []
    for (engine, precision), rows in groupby(report.parity, key=key_of):
        groups = tuple(
            RowGroup(f"{split}, {plural(n, 'image')}", tuple(_row(row, broken) for row in of_split))
            for (split, n), of_split in groupby(rows, key=lambda row: (row.split, row.n))
        )
        simulated = f", {SIMULATED.get(precision, ROUNDED)}" if engine == SIMULATION else ""
        columns = ("model", "right, PyTorch", "right, here", "same class", "relative error")
        tables.append(Table(f"{engine} {precision}{simulated}", columns, groups))
    return Section("Parity with PyTorch", tuple(tables), intro=INTRO) if tables else None


def _row(row: ParityRow, broken: set[str]) -> TableRow:
    largest = f"{row.max_abs_diff:.1e}"
    cells = (
        row.role,
        percent(row.accuracy_reference),
        percent(row.accuracy_engine),
        with_interval(row.agreement, row.agreement_ci95) if row.agreement is not None and row.agreement_ci95 else "",
        largest if row.relative_error is None else Estimate(f"{row.relative_error:.1e}", largest),
    )
    return TableRow(cells, broken=f"{row.engine} {row.precision} {row.role} {row.split}" in broken)
