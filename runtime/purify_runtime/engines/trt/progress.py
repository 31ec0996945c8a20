"""A build's progress, and its end by Ctrl-C."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt

Progress = Callable[[str, float], None]
"""Told a phase of the build, and which fraction of it is done."""


def monitor_for(trt: "tensorrt.Module", progress: Progress, cancelled: threading.Event) -> "tensorrt.IProgressMonitor":
    """An `IProgressMonitor` that tells `progress`, and ends the build once `cancelled` is set."""
    base: Any = trt.IProgressMonitor  # known only at run time

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, (step + 1) / max(1, self.steps.get(phase_name, 1)))
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def interruptible(work: Callable[[], Any], cancelled: threading.Event) -> Any:
    """What `work` returns, done in a thread: this one stays free to see Ctrl-C, which sets `cancelled`.

    Raises:
        KeyboardInterrupt: after `work` has ended.
    """
    done: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # handed on to the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, name="purify-build", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
    except KeyboardInterrupt:
        cancelled.set()
        thread.join()
        raise
    if errors:
        raise errors[0]
    return done[0]
