"""A diagnosis on standard output: the verdict first, then the findings by area."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from purify_runtime.doctor.findings import Diagnosis, EngineVerdict, Finding, Status

STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.PROBLEM: "red", Status.ABSENT: "dim"}
TITLES = {
    "python": "Python",
    "system": "System",
    "jetson": "Jetson",
    "gpu": "NVIDIA GPU",
    "cuda": "CUDA",
    "onnxruntime": "ONNX Runtime",
    "tensorrt": "TensorRT",
    "tensorrt_rtx": "TensorRT for RTX",
    "openvino": "OpenVINO",
    "torch": "PyTorch",
}
INDENT = 10


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Show on standard error, where that is a terminal, what is being looked at."""
    with Console(stderr=True).status("looking at the machine") as status:
        yield lambda area: status.update(f"looking at {TITLES.get(area, area)}")


def print_diagnosis(diagnosis: Diagnosis, console: Console | None = None) -> None:
    """Print it. Commands stand on lines of their own and are never wrapped, so that they can be copied."""
    console = console or Console()
    for engine in sorted(diagnosis.engines, key=lambda engine: not engine.works):
        console.print(_row(*_engine_row(engine)))
    if not diagnosis.works:
        console.print(Text("No engine works here.", style="bold red"))
    for area, findings in groupby(diagnosis.findings, key=lambda finding: finding.area):
        console.print()
        console.print(Text(TITLES.get(area, area), style="bold"))
        for finding in findings:
            _print_finding(finding, console)
    console.print()
    console.print(_summary(diagnosis))


def _engine_row(engine: EngineVerdict) -> tuple[Text, str, str]:
    name = f"engine {engine.name}"
    if engine.works:
        return Text("works", style="bold green"), name, f"{engine.version} on {engine.device}"
    return Text("does not", style="bold red"), name, engine.reason


def _print_finding(finding: Finding, console: Console) -> None:
    value = f"{finding.value}: {finding.reason}" if finding.reason else finding.value
    console.print(_row(Text(finding.status.value, style=STYLES[finding.status]), finding.name, value))
    if finding.remedy:
        console.print(Text(" " * INDENT + finding.remedy, style="cyan"), soft_wrap=True)


def _row(status: Text, name: str, value: str) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=INDENT - 1, no_wrap=True)
    table.add_column(width=18)
    table.add_column(overflow="fold")
    table.add_row(status, Text(name), Text(value))
    return table


def _summary(diagnosis: Diagnosis) -> Text:
    counts = {status: sum(finding.status is status for finding in diagnosis.findings) for status in Status}
    problems, warnings = counts[Status.PROBLEM], counts[Status.WARNING]
    return Text(f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}; commands to go on with are indented")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
