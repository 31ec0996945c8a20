"""The tables of a benchmark as Markdown, for docs/results/runtime.md.

From runtime/: python -m lab.speed.markdown ../docs/results/studies/runtime-NAME.json
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lab.speed.rows import Bar, Bench, Row

VERDICTS = {True: "holds", False: "**missed**", None: "not measured"}


def read_bench(path: Path) -> Bench:
    """What `purify-bench --json` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Bench)


def bars_table(bench: Bench) -> list[str]:
    """A line a bar; a ratio with its quartiles."""
    lines = ["| bar | measured | limit | |", "| --- | --- | --- | --- |"]
    return lines + [
        f"| {bar.name} | {_measured(bar)} | {bar.limit:.3g} | {VERDICTS[bar.passed]} |" for bar in bench.bars
    ]


def _measured(bar: Bar) -> str:
    if bar.value is None:
        return bar.reason
    return f"{bar.value:.3g}" + (f" ({bar.spread[0]:.3g} to {bar.spread[1]:.3g})" if bar.spread else "")


def contestants_table(bench: Bench) -> list[str]:
    """A line a contestant: for each size of batch its median, and its ratio to `labels` with quartiles."""
    rows = {(row.contestant, row.batch): row for row in bench.rows}
    batches = sorted({row.batch for row in bench.rows})
    header = ["contestant", *(f"batch {batch}, ms" for batch in batches), *(f"ratio, {batch}" for batch in batches)]
    cells = (
        [name, *_cells([rows.get((name, batch)) for batch in batches])]
        for name in dict.fromkeys(row.contestant for row in bench.rows)
    )
    return [_line(header), f"|{' --- |' * len(header)}", *(_line(row) for row in cells)]


def _cells(rows: list[Row | None]) -> Iterator[str]:
    for row in rows:
        yield f"{row.p50_ms:.3g}" if row else ""
    for row in rows:
        yield f"{row.ratio:.2f} ({row.ratio_quartiles[0]:.2f} to {row.ratio_quartiles[1]:.2f})" if row else ""


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print what was tuned, and both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    bench = read_bench(parser.parse_args().report)
    print(f"As tuned: {bench.settings}.\n")
    print("\n\n".join("\n".join(table(bench)) for table in (bars_table, contestants_table)))


if __name__ == "__main__":
    main()
