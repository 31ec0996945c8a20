"""Meters of energy: of counters that go up, and of readings of power that are added up over time."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

Part = Literal["board", "cpu", "gpu"]
"""What a meter measures: all that the board takes, the processor packages alone, or a GPU alone."""

SAMPLE_S = 0.02  # from one reading of power to the next


class Meter(Protocol):
    """What tells how much energy was taken. A context manager: it is asked while it is open.

    Attributes:
        name: what is measured and by what, as text.
        part: what of the machine that is.
    """

    name: str
    part: Part

    def joules(self) -> float:
        """Return the energy since some moment, in joules.

        Raises:
            OSError, ValueError: it cannot be read any more.
        """
        ...

    def __enter__(self) -> "Meter": ...

    def __exit__(self, *error: object) -> None: ...


class EnergyCounter(NamedTuple):
    """A counter of energy; `range_j` is where it begins again from 0, None where it does not."""

    read_j: Callable[[], float]
    range_j: float | None = None


class CountedMeter:
    """The sum of counters, each of which may have begun again from 0 once since it was read last."""

    def __init__(self, name: str, part: Part, counters: Sequence[EnergyCounter]) -> None:
        self.name, self.part, self._counters = name, part, counters
        self._last = [counter.read_j() for counter in counters]
        self._total_j = 0.0

    def joules(self) -> float:
        """See `Meter.joules`."""
        now = [counter.read_j() for counter in self._counters]
        for counter, before, value in zip(self._counters, self._last, now, strict=True):
            more = value - before
            self._total_j += more if more >= 0 or counter.range_j is None else more + counter.range_j
        self._last = now
        return self._total_j

    def __enter__(self) -> "CountedMeter":
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: the counters run by themselves."""


class SampledMeter:
    """Readings of power, by a thread while the meter is open; between two of them power goes along a straight line."""

    def __init__(self, name: str, part: Part, read_w: Callable[[], float]) -> None:
        self.name, self.part, self._read_w = name, part, read_w
        self._last_s, self._last_w, self._total_j = time.monotonic(), read_w(), 0.0
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._closed.wait(SAMPLE_S):
            try:
                self.joules()
            except (OSError, ValueError):  # the next reading of joules will raise it too
                continue

    def joules(self) -> float:
        """See `Meter.joules`."""
        with self._lock:
            now_s, now_w = time.monotonic(), self._read_w()
            self._total_j += (now_s - self._last_s) * (now_w + self._last_w) / 2
            self._last_s, self._last_w = now_s, now_w
            return self._total_j

    def __enter__(self) -> "SampledMeter":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._thread.join()


def number_in(path: Path) -> int:
    """Return the number that a file of the kernel holds.

    Raises:
        OSError, ValueError: it cannot be read, or holds none.
    """
    return int(path.read_text())


def word_in(path: Path) -> str:
    """Return the line that a file of the kernel holds; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip(" \0\n")
    except OSError:
        return ""
