"""A benchmark as a document, on a terminal and in docs/results/runtime-tables.md.

For the latter: python -m lab.speed.document docs/results/studies/runtime-NAME.json
"""

import argparse
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import msgspec

from lab.speed.bars import Bar, Bench
from lab.speed.rounds import Row
from purify_edge.document.markdown import markdown_table
from purify_edge.document.model import Block, Bullets, Document, RowGroup, Section, Table, TableRow, table

VERDICTS = {True: "holds", False: "missed", None: "not measured"}


def read_bench(path: Path) -> Bench:
    """Read what `purify-bench --json` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Bench)


def document_of(bench: Bench) -> Document:
    """Return the machine, a row for each contestant, and which bars hold."""
    machine = bench.environment
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    about = [f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, {versions}"]
    if bench.flop:
        about.append(f"{bench.flop / 1e6:.1f} MFLOP an image")
    if bench.busy:
        about.append("one core kept busy")
    blocks: list[Block] = [_by_batch(bench)]
    if bench.not_run:
        blocks.append(Bullets(tuple((f"not run: {name}", reason) for name, reason in bench.not_run.items())))
    return Document(
        title=f"{bench.bundle}, {bench.precision}",
        subtitle="\n".join(["; ".join(about), bench.settings]),
        sections=(Section("From uint8 images to labels", tuple(blocks)), Section("Bars", (bars_table(bench.bars),))),
    )


def bars_table(bars: Iterable[Bar]) -> Table:
    """Return a row for each bar; a ratio with its quartiles."""
    rows = [
        TableRow((bar.name, _measured(bar), f"{bar.limit:.3g}", VERDICTS[bar.passed]), broken=bar.passed is False)
        for bar in bars
    ]
    return table("What must hold", ("bar", "measured", "limit", "verdict"), rows, text_columns=4)


def _measured(bar: Bar) -> str:
    if bar.value is None:
        return bar.reason
    return f"{bar.value:.3g}" + (f" ({bar.spread[0]:.3g} to {bar.spread[1]:.3g})" if bar.spread else "")


def _by_batch(bench: Bench) -> Table:
    groups = tuple(
        RowGroup(f"batch {batch}, {rows[0].n} rounds", tuple(map(_row, rows)))
        for batch, rows in ((batch, list(of)) for batch, of in groupby(bench.rows, key=attrgetter("batch")))
    )
    columns = ("contestant", "p50 ms", "p90 ms", "ms/image", "ratio", "quartiles")
    return Table("Ratios to labels round by round, median and quartiles", columns, groups)


def _row(row: Row) -> TableRow:
    low, high = row.ratio_quartiles
    times = (f"{value:.3f}" for value in (row.p50_ms, row.p90_ms, row.ms_per_image))
    return TableRow((row.contestant, *times, f"{row.ratio:.2f}", f"{low:.2f}-{high:.2f}"))


def contestants_table(bench: Bench) -> Table:
    """Return a row for each contestant: by size of batch its median, and its ratio to `labels` with quartiles."""
    found = {(row.contestant, row.batch): row for row in bench.rows}
    batches = sorted({row.batch for row in bench.rows})
    columns = ["contestant", *(f"batch {batch}, ms" for batch in batches), *(f"ratio, {batch}" for batch in batches)]
    rows = [
        [name, *_cells([found.get((name, batch)) for batch in batches])]
        for name in dict.fromkeys(row.contestant for row in bench.rows)
    ]
    caption = "Ratios to labels round by round, median and quartiles"
    return table(caption, columns, rows, text_columns=len(columns))


def _cells(rows: list[Row | None]) -> Iterator[str]:
    for row in rows:
        yield f"{row.p50_ms:.3g}" if row else ""
    for row in rows:
        yield f"{row.ratio:.2f} ({row.ratio_quartiles[0]:.2f} to {row.ratio_quartiles[1]:.2f})" if row else ""


def main() -> None:
    """Print what was run, and both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    bench = read_bench(parser.parse_args().report)
    print(f"{bench.settings}\n")
    print("\n\n".join(map(markdown_table, (bars_table(bench.bars), contestants_table(bench)))))


if __name__ == "__main__":
    main()
