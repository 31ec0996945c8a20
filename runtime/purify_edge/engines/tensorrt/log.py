"""The builder's log, captured: TensorRT tells the reason of a failure nowhere else."""

from collections import deque
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
