"""What a builder tells: its log, for TensorRT gives the reason of a failure nowhere else, and its progress."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt

KEPT = 20


class Log:
    """The last errors and warnings of a builder or a runtime."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=KEPT)
        self.warnings: deque[str] = deque(maxlen=KEPT)

    def reason(self) -> str:
        """Return the errors, else the warnings, in one line."""
        return "; ".join(self.errors or self.warnings) or "no reason given"


def logger_for(trt: "tensorrt.Module", log: Log) -> "tensorrt.ILogger":
    """Return an `ILogger` that writes into `log`. It must live as long as what was made with it."""
    errors = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    base: Any = trt.ILogger  # known only at run time

    class Logger(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: "tensorrt.ILogger.Severity", message: str) -> None:
            if severity in errors:
                log.errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING:
                log.warnings.append(message)

    return Logger()


def parser_errors(parser: "tensorrt.OnnxParser") -> str:
    """Return the parser's errors: node, operator and message of each."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    told = [f"{_node(error)}: {error.desc()}" for error in errors]
    return "; ".join(told) or "it is no ONNX model with an input"


def _node(error: "tensorrt.ParserError") -> str:
    name = getattr(error, "node_name", None)  # 8.6 gives the node's index only
    return f"{name()} ({error.node_operator()})" if name else f"node {error.node()}"


Progress = Callable[[str, float], None]
"""Told the phase of the build, and which fraction of the whole is done; it never decreases."""


def monitor_for(trt: "tensorrt.Module", progress: Progress, cancelled: threading.Event) -> "tensorrt.IProgressMonitor":
    """Return an `IProgressMonitor` that tells `progress`, and ends the build once `cancelled` is set."""
    base: Any = trt.IProgressMonitor  # known only at run time

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.phases: dict[str, _Phase] = {}
            self.done = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = _Phase(self.phases.get(parent_phase or ""), max(1, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase := self.phases.get(phase_name):
                self.tell(phase_name, phase, step + 1)
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            if phase := self.phases.pop(phase_name, None):
                self.tell(phase_name, phase, phase.steps)

        def tell(self, phase_name: str, phase: "_Phase", steps_done: int) -> None:
            phase.steps_done = steps_done
            self.done = max(self.done, phase.whole())
            progress(phase_name, self.done)

    return Monitor()


@dataclass
class _Phase:
    """A phase is one step of its parent."""

    parent: "_Phase | None"
    steps: int
    steps_done: int = 0

    def whole(self) -> float:
        """Return which fraction of the outermost phase is done."""
        phase: _Phase | None = self
        done = 0.0
        while phase:
            done = min(1.0, (phase.steps_done + done) / phase.steps)
            phase = phase.parent
        return done


def interruptible(work: Callable[[], Any], cancelled: threading.Event) -> Any:
    """Return what `work` returns, done in a thread: this one stays free to see Ctrl-C, which sets `cancelled`.

    Raises:
        KeyboardInterrupt: after `work` has ended.
    """
    done: list[Any] = []
    errors: list[BaseException] = []
    begin, finished = threading.Event(), threading.Event()

    def run() -> None:
        begin.wait()
        try:
            if not cancelled.is_set():
                done.append(work())
        except BaseException as error:  # handed on to the thread that waits
            errors.append(error)
        finally:
            finished.set()

    threading.Thread(target=run, name="purify-build", daemon=True).start()  # interrupted in here, it never begins
    try:  # not by Thread.join: until Python 3.13 an interrupted one takes a running thread for ended
        begin.set()
        while not finished.wait(0.1):
            pass
    except KeyboardInterrupt:
        cancelled.set()
        begin.set()
        finished.wait()
        raise
    if errors:
        raise errors[0]
    return done[0]
