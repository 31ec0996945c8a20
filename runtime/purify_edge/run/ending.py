"""How a camera's run ends: by Ctrl-C or SIGTERM, in good order."""

import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import click

from purify_edge.run.runner import Run


@dataclass
class Ending:
    """Which signal ended a run; `code` is then the exit code that shells give it, 130 or 143, and 0 otherwise."""

    code: int = 0


@contextmanager
def ended_by_signals(work: Run) -> Iterator[Ending]:
    """Have the first Ctrl-C or SIGTERM stop a camera's run, and the next one end it at once, as all other runs."""
    ending = Ending()
    if work.camera is None or threading.current_thread() is not threading.main_thread():
        yield ending
        return

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        ending.code = 128 + number
        work.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield ending
    finally:
        restore()
        if ending.code:
            gc.freeze()  # spares the search for reference cycles at the interpreter's end: 0.3 s on two busy cores
            click.echo(f"  ended by {signal.Signals(ending.code - 128).name}", err=True)
