"""Progress on standard error: the stage's epochs and the units of the epoch, with ETA and current losses."""

import time
from datetime import timedelta
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column


class StageProgress(Protocol):
    """What the loop tells of itself."""

    def epoch(self, stage: str, epoch: int, epochs: int, units: int) -> None:
        """Tell that an epoch of so many units of work begins."""

    def advance(self, units: int, text: str) -> None:
        """Tell that so many units are done; `text` says what and with which losses."""


class QuietProgress:
    """Says nothing: the main process speaks for the others."""

    def __enter__(self) -> "QuietProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def epoch(self, stage: str, epoch: int, epochs: int, units: int) -> None:
        """See `RichProgress`."""

    def advance(self, units: int, text: str) -> None:
        """See `RichProgress`."""


class RichProgress:
    """A line for each stage and each epoch, with the time that the stage still takes; below them bars, in a terminal.

    Args:
        unit: what the stage's epochs are called.
    """

    def __init__(self, *, unit: str = "epoch") -> None:
        self._unit = unit
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", table_column=Column(ratio=1, no_wrap=True)),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._stage = ""
        self._units = self._epochs_left = self._epochs_done = 0
        self._begin_s = 0.0
        self._line = ""
        self._stage_bar = self._bars.add_task("", visible=False, text="")
        self._epoch_bar = self._bars.add_task("", visible=False, text="")

    def __enter__(self) -> "RichProgress":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell()
        self._bars.stop()

    def epoch(self, stage: str, epoch: int, epochs: int, units: int) -> None:
        """Tell that an epoch begins, perhaps the first of another stage."""
        self._tell()
        name, count = stage.replace("_", " "), f"{self._unit} {epoch + 1}/{epochs}"
        if stage != self._stage:
            self._print(name if epochs == 1 else f"{name}, {epochs} {self._unit}s")
            self._begin_s, self._epochs_done = time.monotonic(), 0
            self._bars.reset(self._stage_bar, total=epochs, completed=epoch, description=name, visible=True)
        self._bars.update(self._stage_bar, completed=epoch)
        self._bars.reset(self._epoch_bar, total=units, description=f"  {count}", visible=True)
        self._stage, self._units, self._line = stage, units, f"{name}: {count}"
        self._epochs_left = epochs - epoch - 1

    def advance(self, units: int, text: str) -> None:
        """Tell that so many units of the epoch are done."""
        self._bars.update(self._epoch_bar, advance=units, text=text)
        self._bars.update(self._stage_bar, advance=units / self._units)
        self._line = f"{self._line.partition('  ')[0]}  {text}"

    def _tell(self) -> None:
        """Print a line for the epoch that ended."""
        if self._line:
            self._epochs_done += 1
            left_s = (time.monotonic() - self._begin_s) / self._epochs_done * self._epochs_left
            left = f"  {timedelta(seconds=round(left_s))} left" if self._epochs_left else ""
            self._print(f"{self._line.rstrip()}{left}")
            self._line = ""

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)
