"""How far a run is, on standard error: a bar with rate and time left; now and then a line where it is no terminal."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_INTERVAL_S = 10.0


def images(count: int) -> str:
    """Write a count of images.

    >>> images(1), images(2000)
    ('1 image', '2,000 images')
    """
    return f"{count:,} image{'' if count == 1 else 's'}"


def printable(name: str) -> str:
    """Return a text with what would steer the terminal written out: names of files may hold anything."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} images/s", style="dim")


class Tracker:
    """Counts images, and reports it."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("purifying", total=None)
        self._done, self._begin_s = 0, time.monotonic()
        self._told_s = self._begin_s
        self._total: int | None = None

    def expect(self, count: Callable[[], int | None]) -> None:
        """Find out beside the work how many images there are."""

        def work() -> None:
            self._total = count()
            self._bar.update(self._task, total=self._total)

        threading.Thread(target=work, name="count", daemon=True).start()

    def advance(self, count: int) -> None:
        """Count so many more as done."""
        self._done += count
        self._bar.advance(self._task, count)
        now = time.monotonic()
        if not self._bar.console.is_terminal and now - self._told_s >= LINE_INTERVAL_S:
            self._told_s = now
            click.echo(f"  {self._line(now)}", err=True)

    def _line(self, now: float) -> str:
        rate = self._done / (now - self._begin_s)
        parts = [images(self._done) if self._total is None else f"{self._done:,} of {images(self._total)}"]
        parts.append(f"{rate:,.0f} images/s")
        if self._total is not None and rate:
            parts.append(f"{max(0, self._total - self._done) / rate:.0f} s left")
        return ", ".join(parts)

    def print(self, text: str, *, style: str = "") -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True, style=style)


@contextmanager
def tracker() -> Iterator[Tracker]:
    """Show progress as long as the block lasts."""
    text = TextColumn("{task.description}")
    columns = (text, BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(compact=True))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield Tracker(bar)
