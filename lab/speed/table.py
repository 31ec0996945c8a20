"""A benchmark as tables on standard output."""

from itertools import groupby
from operator import attrgetter

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lab.speed.rows import Bar, Bench


def print_bench(bench: Bench, console: Console | None = None) -> None:
    """Print the machine, a row for each contestant and batch, and which bars hold."""
    console = console or Console()
    machine = bench.environment
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    console.print(
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, {versions}", style="dim"
    )
    told = [f"{bench.bundle}, {bench.precision}"]
    if bench.flop:
        told.append(f"{bench.flop / 1e6:.1f} MFLOP an image")
    if bench.busy:
        told.append("one core kept busy")
    console.print("; ".join(told), style="dim")
    console.print(bench.settings, style="dim", highlight=False)
    console.print(_rows(bench))
    for name, reason in bench.not_run.items():
        console.print(f"not run: {name}: {reason}", style="dim", highlight=False, markup=False)
    console.print(_bars(bench))


def _rows(bench: Bench) -> Table:
    table = _table("From uint8 images to labels; ratios to `labels` round by round, median and quartiles")
    table.add_column("contestant", overflow="fold")
    for column in ("p50 ms", "p90 ms", "ms/image", "ratio", "quartiles"):
        table.add_column(column, justify="right", no_wrap=True)
    for batch, group in groupby(bench.rows, key=attrgetter("batch")):
        rows = list(group)
        table.add_section()
        table.add_row(f"batch {batch}, {rows[0].n} rounds", style="bold")
        for row in rows:
            low, high = row.ratio_quartiles
            table.add_row(
                row.contestant,
                f"{row.p50_ms:.3f}",
                f"{row.p90_ms:.3f}",
                f"{row.ms_per_image:.3f}",
                f"{row.ratio:.2f}",
                f"{low:.2f}-{high:.2f}",
            )
    return table


def _bars(bench: Bench) -> Table:
    table = _table("Bars")
    table.add_column("bar")
    for column in ("found", "quartiles", "limit"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    for bar in bench.bars:
        found = "" if bar.value is None else f"{bar.value:.3g}"
        spread = "" if bar.spread is None else f"{bar.spread[0]:.3g}-{bar.spread[1]:.3g}"
        table.add_row(bar.name, found, spread, f"{bar.limit:g}", _verdict(bar))
    return table


def _verdict(bar: Bar) -> str:
    if bar.passed is None:
        return f"[dim]{bar.reason}[/dim]"
    return "[green]holds[/green]" if bar.passed else "[red]MISSED[/red]"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
