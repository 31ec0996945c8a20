"""The evaluation's rows, as a table or as JSON, on standard output."""

import json
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table

from purify_toolkit.evaluate import Row
from purify_toolkit.evaluate.gates import Gate
from purify_toolkit.evaluate.report import Headline, Report

WIDTH = 150
"""Of what goes to a file."""


def print_rows(rows: Sequence[Row], *, as_json: bool) -> None:
    """Print accuracies with n and 95% intervals."""
    if as_json:
        click.echo(json.dumps([row.as_dict() for row in rows], indent=2))
        return
    table = Table("threat", "attack", "purifier", "n", "accuracy", "95% interval")
    for row in rows:
        table.add_row(row.threat, row.attack, *_figures(row))
    _console().print(table)


def print_report(report: Report, *, as_json: bool) -> None:
    """Print headlines, the purifier's tax, all rows and the gates; or what evaluation.json holds."""
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
        return
    tax, console = report.tax, _console()
    console.print(_headlines(report.headlines))
    console.print(
        f"The purifier costs {tax.points:.2f} points on {tax.n} clean images "
        f"({100 * tax.undefended:.2f}% to {100 * tax.defended:.2f}%, McNemar's p = {tax.p:.2g}).",
        highlight=False,
    )
    console.print(_rows(report))
    console.print(_gates(report.gates))


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def _headlines(headlines: Sequence[Headline]) -> Table:
    table = Table(
        "threat",
        "size",
        "purifier",
        "n",
        "accuracy",
        "95% interval",
        "attacks",
        title="worst case of each threat, image by image",
    )
    for headline in headlines:
        size = "" if headline.norm is None else f"{headline.norm} {headline.size:g}"
        names = ", ".join(name.partition(":")[2] for name in headline.attacks)
        table.add_row(headline.threat, size, *_figures(headline), names)
    return table


def _figures(row: Row | Headline) -> tuple[str, ...]:
    low, high = row.interval
    return (
        "yes" if row.defended else "no",
        str(row.n),
        f"{100 * row.accuracy:.2f}%",
        f"{100 * low:.2f} to {100 * high:.2f}%",
    )


def _rows(report: Report) -> Table:
    table = Table("threat", "attack", "purifier", "n", "accuracy", "95% interval", "seconds", title="every attack")
    for measurement in report.results.rows.values():
        for row in measurement.rows():
            table.add_row(row.threat, row.attack, *_figures(row), f"{measurement.seconds:.0f}")
    return table


def _gates(gates: Sequence[Gate]) -> Table:
    words = {True: "passed", False: "[bold red]FAILED[/]", None: "not checked"}
    table = Table("gate", "", "why", title="is this evaluation sound?")
    for gate in gates:
        table.add_row(gate.name, words[gate.passed], gate.explanation)
    return table
