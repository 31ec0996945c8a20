"""The history of a training: a line an epoch in metrics.jsonl, and the same as TensorBoard's event files."""

import json
import shutil
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from purify_edge.files import atomic
from purify_toolkit.runs.folder import RunFolder

EVENTS = "tensorboard"
"""The folder of the event files in a run, one in it for each stage."""

Line = dict[str, Any]
"""`stage`, `epoch`, `losses`, `validation`, `learning_rate`, `precision` and `seconds` of one epoch."""


class History:
    """The history of one stage, open for further epochs; a context manager.

    What an interruption left in doubt is dropped at the start: the lines of epochs that will be repeated, and one
    that was cut short. The stage's event file is written anew from the lines that stay, those of `epochs_done` epochs,
    so no epoch is in it twice.
    """

    def __init__(self, run: RunFolder, stage: str, *, epochs_done: int) -> None:
        self._path = run.path / "metrics.jsonl"
        kept = [line for line in read_metrics(run) if line["stage"] != stage or line["epoch"] < epochs_done]
        with atomic(self._path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        folder = run.path / EVENTS / stage
        shutil.rmtree(folder, ignore_errors=True)
        self._events = SummaryWriter(str(folder))
        for line in kept:
            if line["stage"] == stage:
                self._draw(line)

    def __enter__(self) -> "History":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.close()

    def append(self, line: Line) -> None:
        """Add an epoch."""
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._draw(line)

    def _draw(self, line: Line) -> None:
        """Draw a point in each of TensorBoard's curves."""
        for group in ("losses", "validation"):
            for name, value in line[group].items():
                self._events.add_scalar(f"{group}/{name}", value, line["epoch"])
        self._events.add_scalar("learning_rate", line["learning_rate"], line["epoch"])
        self._events.flush()


def read_metrics(run: RunFolder) -> list[Line]:
    """Read the lines of metrics.jsonl, none where there is no file; a last one that was cut short is left out."""
    path, lines = run.path / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
