"""The edge between our code and the shell: every failure becomes one message and an exit code."""

import errno
import io
import logging
import os
import sys
from typing import Any

import click

from purify_edge.extras import silence

OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUDA out of memory", "MPS backend out of memory")  # torch's RuntimeErrors
EXTRAS = (
    dict.fromkeys(
        (
            *("torch", "torchvision", "safetensors", "scipy", "matplotlib", "pyautoattack"),
            *("tensorboard", "accelerate", "tomli"),
        ),
        "train",
    )
    | dict.fromkeys(("foolbox", "eagerpy"), "attacks")
    | dict.fromkeys(("onnx", "onnxscript", "onnx_ir", "ml_dtypes"), "export")
)
"""Module -> the extra that brings it."""


class Command(click.Command):
    """A command that ends with 2 for bad input, 3 for what is missing, 130 for Ctrl-C; never with a traceback.

    Command modules import nothing heavy at their top, so that an interrupt or a missing package during those imports
    is caught here too. `PURIFY_TRACEBACK=1` lets exceptions through.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see the class."""
        _open_closed_streams()
        silence()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a file's name may be unprintable here
        _log_to_standard_error()
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("\ninterrupted", err=True)
            raise click.exceptions.Exit(130) from None
        except Exception as error:
            if os.environ.get("PURIFY_TRACEBACK") or getattr(error, "errno", None) == errno.EPIPE:
                raise
            message, code = _explain(error)
            click.echo(f"Error: {message}", err=True)
            sys.exit(code)


def _open_closed_streams() -> None:
    """Let what is printed go nowhere, and nothing be read, where the shell has closed a stream, as `>&-` does."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123  # for the life of the process


def _log_to_standard_error() -> None:
    """Show what is logged, such as which engine is taken and why."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            click.echo(f"  {record.getMessage()}", err=True)

    logger = logging.getLogger("purify_edge")
    logger.handlers = [Handler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _explain(error: Exception) -> tuple[str, int]:
    """Return what to tell the user of an exception, and the exit code."""
    code = getattr(error, "exit_code", None)  # of a PurifyError
    if isinstance(code, int):
        return str(error), code
    if isinstance(error, ModuleNotFoundError):
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra:
            return f"needs '{extra}': pip install 'purify-edge[{extra}]' ({error.name} is not installed)", 3
    if isinstance(error, OSError):
        return f"{error.filename or 'input or output'}: {error.strerror or error}", 2
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        return "out of memory; smaller images, networks or batches need less", 3
    return f"{type(error).__name__}: {error}\nThis is a defect; PURIFY_TRACEBACK=1 shows where.", 70
