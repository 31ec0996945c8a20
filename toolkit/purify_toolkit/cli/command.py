"""The edge between our code and the shell: every failure becomes one message and an exit code.

The runtime has a command class of its own like this one, for neither room may import the other.
"""

import errno
import io
import os
import sys
from typing import Any

import click

OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUDA out of memory", "MPS backend out of memory")  # torch's RuntimeErrors
MAX_SEED = 2**63 - 1  # torch's generators take no more
MAX_SIDE = 4096  # of images, in pixels
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


def image_size(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """An option's `32x48` -> height and width of images, in pixels."""
    if text is None:
        return None
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and 1 <= int(side) <= MAX_SIDE for side in sides):
        raise click.BadParameter(f"expected HEIGHTxWIDTH, each from 1 to {MAX_SIDE}, like 64x64, got {text!r}")
    return int(sides[0]), int(sides[1])


class Command(click.Command):
    """A command that ends with 2 for bad input, 3 for what is missing, 130 for Ctrl-C; never with a traceback.

    Command modules import nothing heavy at their top, so that an interrupt or a missing package
    during those imports is caught here too. `PURIFY_TRACEBACK=1` lets exceptions through.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see the class."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a file's name may be unprintable here
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


def _explain(error: Exception) -> tuple[str, int]:
    """What to tell the user of an exception, and the exit code."""
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
        return "out of memory; smaller images, networks or batches (all in the recipe) need less", 3
    return f"{type(error).__name__}: {error}\nThis is a defect; PURIFY_TRACEBACK=1 shows where.", 70
