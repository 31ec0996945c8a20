"""The edge between our code and the shell: every failure becomes one message and an exit code.

The toolkit has a command class of its own like this one, for neither room may import the other.
"""

import errno
import io
import logging
import os
import sys
from typing import Any

import click


class Command(click.Command):
    """A command that ends with 2 for bad input, 3 for what is missing, 130 for Ctrl-C; never with a traceback.

    Command modules import nothing heavy at their top, so that an interrupt during those imports is
    caught here too. `PURIFY_TRACEBACK=1` lets exceptions through.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see the class."""
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


def _log_to_standard_error() -> None:
    """Show what the runtime logs, which engine it takes and why, say."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            click.echo(f"  {record.getMessage()}", err=True)

    logger = logging.getLogger("purify_runtime")
    logger.handlers = [Handler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _explain(error: Exception) -> tuple[str, int]:
    """What to tell the user of an exception, and the exit code."""
    code = getattr(error, "exit_code", None)  # of a PurifyError
    if isinstance(code, int):
        return str(error), code
    if isinstance(error, OSError):
        return f"{error.filename or 'input or output'}: {error.strerror or error}", 2
    if isinstance(error, MemoryError):
        return "out of memory", 3
    return f"{type(error).__name__}: {error}\nThis is a defect; PURIFY_TRACEBACK=1 shows where.", 70
