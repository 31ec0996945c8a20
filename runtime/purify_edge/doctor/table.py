"""A diagnosis on standard output: the verdict first, then the findings by area."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from purify_edge.doctor.findings import Diagnosis, EngineVerdict, Finding, Status
from purify_edge.document.wording import plural

STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.PROBLEM: "red", Status.ABSENT: "dim"}
TITLES = {"system": "System", "jetson": "Jetson", "gpu": "NVIDIA GPU", "cuda": "CUDA", "packages": "Packages"}
INDENT, NAME = 10, 18  # columns


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Show on standard error, where that is a terminal, what is being looked at."""
    with Console(stderr=True).status("looking at the machine") as status:
        yield lambda area: status.update(f"looking at {TITLES.get(area, area)}")


def print_diagnosis(diagnosis: Diagnosis, console: Console | None = None) -> None:
    """Print a diagnosis; commands stand on lines of their own and are never wrapped, so that they can be copied."""
    console = console or Console()
    width = max((len(f"engine {engine.name}") for engine in diagnosis.engines), default=0)
    for engine in sorted(diagnosis.engines, key=lambda engine: not engine.works):
        _print_engine(engine, console, width)
    if not diagnosis.works:
        console.print(Text("No engine works here.", style="bold red"))
    for area, findings in groupby(diagnosis.findings, key=lambda finding: finding.area):
        console.print()
        console.print(Text(TITLES.get(area, area), style="bold"))
        for finding in findings:
            _print_finding(finding, console)
    console.print()
    console.print(_summary(diagnosis))


def _print_engine(engine: EngineVerdict, console: Console, width: int) -> None:
    status = Text("works", style="bold green") if engine.works else Text("does not", style="bold red")
    value = f"{engine.version} on {engine.device}" if engine.works else engine.reason
    console.print(_row(status, f"engine {engine.name}", value, width))
    _print_command(engine.remedy, console)


def _print_finding(finding: Finding, console: Console) -> None:
    value = f"{finding.value}: {finding.reason}" if finding.reason else finding.value
    console.print(_row(Text(finding.status.value, style=STYLES[finding.status]), finding.name, value))
    _print_command(finding.remedy, console)


def _print_command(command: str, console: Console) -> None:
    if command:
        console.print(Text(" " * INDENT + command, style="cyan"), soft_wrap=True)


def _row(status: Text, name: str, value: str, width: int = 0) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=INDENT - 1, no_wrap=True)
    table.add_column(width=max(NAME, width))
    table.add_column(overflow="fold")
    table.add_row(status, Text(name), Text(value))
    return table


def _summary(diagnosis: Diagnosis) -> Text:
    counts = Counter(finding.status.value for finding in diagnosis.findings)
    remedies = [finding.remedy for finding in diagnosis.findings] + [engine.remedy for engine in diagnosis.engines]
    more = "; commands to go on with are indented" if any(remedies) else ""
    return Text(f"{plural(counts['problem'], 'problem')}, {plural(counts['warning'], 'warning')}{more}")
