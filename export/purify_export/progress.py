"""The progress that an export reports while it works."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Tell = Callable[[str], None]
Thing = TypeVar("Thing")

INTERVAL_S = 10.0


def silent(text: str) -> None:
    """Tell nobody."""


@contextmanager
def stage(tell: Tell, title: str) -> Iterator[Tell]:
    """Tell the title of a stage and how long it took, once it has succeeded, and every ten seconds how far it is.

    What comes back notes that: it takes what the stage is at. A thread tells it, however long a single call takes.
    """
    start, at, done = time.perf_counter(), [""], threading.Event()

    def beat() -> None:
        while not done.wait(INTERVAL_S):
            tell(f"{title}: {time.perf_counter() - start:.0f} s so far{at[-1] and ', '}{at[-1]}")

    thread = threading.Thread(target=beat, name="progress", daemon=True)
    thread.start()
    try:
        yield at.append
    finally:
        done.set()
        thread.join()
    tell(f"{title}: {time.perf_counter() - start:.1f} s")


def counted(things: Iterable[Thing], total: int, what: str, note: Tell) -> Iterator[Thing]:
    """Yield things, and note which of them is being worked on, and when the last will be done."""
    start = time.perf_counter()
    for number, thing in enumerate(things):
        left = (time.perf_counter() - start) / number * (total - number) if number else 0
        note(f"{what} {number + 1} of {total}{f', {left:.0f} s left' if number else ''}")
        yield thing
