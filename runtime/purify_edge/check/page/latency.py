"""The sections on latency and energy: percentiles and millijoules by engine, stage and size of batch."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from purify_edge.bundle.report import EnergyRow, LatencyRow, Report
from purify_edge.check.page.plots import CUT, latency_plot
from purify_edge.document.model import Block, Bullets, Plot, Plots, RowGroup, Section, Table, TableRow
from purify_edge.document.wording import milliseconds, plural

SLOWER = 1.2
"""A precision that takes this many times as long as float32, or more, is reported as slower."""
KEY = (
    "Dot: median. Stroke: 90th percentile. Circle: 99th percentile, or an arrow with its value where it lies "
    f"beyond {CUT:g} times the largest 90th percentile. The axes of different batch sizes differ."
)


def latency_section(report: Report) -> Section | None:
    """Return the percentiles, and the precisions that are slower than float32."""
    rows = report.latency
    if not rows:
        return None
    how = (
        f"{plural(rows[0].n, 'call')} of each stage, interleaved, after {rows[0].warmup} to warm up. Absolute times "
        "tell of this machine as it was; compare within the table."
    )
    batches = sorted({row.batch for row in rows})
    plots = tuple(_plot([row for row in rows if row.batch == batch], batch) for batch in batches)
    slower = tuple(_slower(rows))
    advice: list[Block] = [Bullets(slower)] if slower else []
    return Section("Latency", (*advice, Plots(KEY, plots, _numbers(rows))), intro=how)


def _slower(rows: Sequence[LatencyRow]) -> Iterator[tuple[str, str]]:
    """Yield the precisions that an engine runs slower than float32: they are made for other devices or engines."""
    times_ms = {(row.engine, row.precision): row.p50_ms for row in rows if (row.stage, row.batch) == ("pipeline", 1)}
    for (engine, precision), time_ms in times_ms.items():
        ratio = time_ms / times_ms.get((engine, "fp32"), math.inf)
        if ratio > SLOWER:
            other = ", or pip install 'purify-edge[openvino]' and --engine openvino" if engine == "onnxruntime" else ""
            yield f"{engine} {precision}", f"takes {ratio:.1f} times as long as fp32 here: take fp32{other}"


def _numbers(rows: Sequence[LatencyRow]) -> Table:
    first = rows[0]
    groups = tuple(
        RowGroup(f"{engine} {precision}, batch {batch}", tuple(map(_row, of_batch)))
        for (engine, precision, batch), of_batch in groupby(
            rows, key=lambda row: (row.engine, row.precision, row.batch)
        )
    )
    caption = f"Percentiles in ms a batch, {first.n} interleaved calls; images a second at the median"
    return Table(caption, ("stage", "p50 ms", "p90 ms", "p99 ms", "images/s"), groups)


def _plot(rows: Sequence[LatencyRow], batch: int) -> Plot:
    said = "; ".join(f"{row.engine} {row.precision} {row.stage} {milliseconds(row.p50_ms)}" for row in rows)
    return Plot(f"Batch of {plural(batch, 'image')}", latency_plot(rows), f"Median latency in ms: {said}")


def _row(row: LatencyRow) -> TableRow:
    times = (milliseconds(value) for value in (row.p50_ms, row.p90_ms, row.p99_ms))
    return TableRow((row.stage, *times, f"{row.images_per_s:,.0f}"))


def energy_section(report: Report) -> Section | None:
    """Return the energy for an image, as each meter counted it."""
    rows = report.energy
    if not rows:
        return None
    how = (
        "Each stage ran in a row for about two seconds. Above idle: without what the meter counted a little before, "
        "with the same models open and nothing running. Other programs are in both; compare within the table."
    )
    tables = tuple(
        _millijoules(meter, [row for row in rows if row.meter == meter])
        for meter in dict.fromkeys(row.meter for row in rows)
    )
    return Section("Energy", tables, intro=how)


def _millijoules(meter: str, rows: Sequence[EnergyRow]) -> Table:
    groups = tuple(
        RowGroup(f"{engine} {precision}, batch {batch}", tuple(map(_energy_row, of_batch)))
        for (engine, precision, batch), of_batch in groupby(
            rows, key=lambda row: (row.engine, row.precision, row.batch)
        )
    )
    caption = f"Energy for an image, in mJ, by {meter}; idle {rows[0].idle_w:.2f} W"
    return Table(caption, ("stage", "above idle", "in all", "power in W"), groups)


def _energy_row(row: EnergyRow) -> TableRow:
    above = row.mj_per_image_above_idle
    sign = "\N{MINUS SIGN}" if above < 0 else ""
    shown = (f"{sign}{milliseconds(abs(above))}", milliseconds(row.mj_per_image), f"{row.power_w:.2f}")
    return TableRow((row.stage, *shown))
