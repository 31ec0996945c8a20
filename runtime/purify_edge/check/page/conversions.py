"""The section on conversions: which layers stay in float32, what was tried, and where outputs diverge."""

from collections.abc import Sequence

from purify_edge.bundle.report import Attempt, Divergence, Report
from purify_edge.document.model import Block, Bullets, Section, TableRow, table


def divergences(found: Sequence[Divergence]) -> Bullets:
    """Return the first layer of each precision whose output differs by more than the tolerance."""
    return Bullets(
        tuple(
            (
                f"first diverging layer in {layer.precision}, {layer.split}",
                f"{_layer(layer.node, layer.operator, layer.weight)}, error {layer.error:.2g}, "
                f"tolerance {layer.tolerance:g}",
            )
            for layer in found
        )
    )


def _layer(node: str, operator: str, weight: str) -> str:
    return f"{node} ({operator}{f' of {weight}' if weight else ''})"


def conversions_section(report: Report) -> Section | None:
    """Return the layers that the conversions left in float32, and the conversions that were tried."""
    blocks: list[Block] = []
    if report.kept:
        rows = [
            (f"{kept.precision} {kept.role}", _layer(kept.node, kept.operator, kept.weight), kept.reason)
            for kept in report.kept
        ]
        blocks.append(table("Layers that stay in float32", ("model", "layer", "why"), rows, text_columns=3))
    if report.attempts:
        caption = f"Conversions tried; drop of accuracy in points, {report.attempts[0].n} calibration images a split"
        columns = ("precision", "drop", "layers in float32", "limit", "verdict")
        blocks.append(table(caption, columns, map(_attempt, report.attempts), text_columns=2))
    return Section("Layers left in float32", tuple(blocks)) if blocks else None


def _attempt(attempt: Attempt) -> TableRow:
    cells = (
        attempt.precision,
        ", ".join(f"{split} {100 * drop:+.2f}" for split, drop in attempt.drop.items()),
        f"{attempt.float32_layers} of {attempt.layers}",
        f"{100 * attempt.limit:g}",
        "holds" if attempt.passed else "broken",
    )
    return TableRow(cells, broken=not attempt.passed)
