"""Progress on standard error: the stage's epochs and the units of the epoch, with ETA and current losses."""

import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column


class StageProgress(Protocol):
    """The progress that the loop reports."""

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Tell which stages are to come, in order, and about how long each takes."""

    def epoch(self, stage: str, epoch: int, epochs: int, units: int) -> None:
        """Tell that an epoch of so many units of work begins."""

    def advance(self, units: int, text: str) -> None:
        """Tell that so many units are done; `text` says what and with which losses."""


class QuietProgress:
    """Says nothing: the main process reports for the others."""

    def __enter__(self) -> "QuietProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def expect(self, seconds: Mapping[str, float]) -> None:
        """See `RichProgress`."""

    def epoch(self, stage: str, epoch: int, epochs: int, units: int) -> None:
        """See `RichProgress`."""

    def advance(self, units: int, text: str) -> None:
        """See `RichProgress`."""


class RichProgress:
    """A line for each stage and each epoch, with the time that it and all still take; below them bars, in a terminal.

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
        self._expected_s: dict[str, float] = {}
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

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Tell which stages are to come, in order, and about how long each takes."""
        self._expected_s = dict(seconds)

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
            taken_s = time.monotonic() - self._begin_s
            left_s = taken_s / self._epochs_done * self._epochs_left
            all_s = left_s + self._later_s(taken_s + left_s)
            left = f"  {timedelta(seconds=round(left_s))} left" if self._epochs_left else ""
            later = f", {timedelta(seconds=round(all_s))} of all" if left and all_s > left_s else ""
            self._bars.update(self._stage_bar, text=f"all: {timedelta(seconds=round(all_s))} left")
            self._print(f"{self._line.rstrip()}{left}{later}")
            self._line = ""

    def _later_s(self, this_s: float) -> float:
        """Return how long the stages after this one take, as much longer than expected as this one does."""
        names = list(self._expected_s)
        if self._stage not in names:
            return 0.0
        later_s = sum(self._expected_s[name] for name in names[names.index(self._stage) + 1 :])
        return later_s * this_s / max(self._expected_s[self._stage], 1e-9)

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)
