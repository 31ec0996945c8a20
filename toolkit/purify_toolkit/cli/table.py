"""The evaluation's rows, as a table or as JSON, on standard output."""

import json
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table

from purify_toolkit.evaluation import Row


def print_rows(rows: Sequence[Row], *, as_json: bool) -> None:
    """Print accuracies with n and 95% intervals."""
    if as_json:
        click.echo(json.dumps([row.as_dict() for row in rows], indent=2))
        return
    table = Table("threat", "attack", "purifier", "n", "accuracy", "95% interval")
    for row in rows:
        low, high = row.interval
        table.add_row(
            row.threat,
            row.attack,
            "yes" if row.defended else "no",
            str(row.n),
            f"{100 * row.accuracy:.2f}%",
            f"{100 * low:.2f} to {100 * high:.2f}%",
        )
    Console().print(table)
