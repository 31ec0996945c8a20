"""Call native code in a child process, so that its crash or its hang is an answer and does not end the doctor.

The child is a fresh interpreter with this one's `sys.path`. It calls one function of `native.py` and prints the result
as one line of JSON behind MARK; libraries may print what they like around it.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

MARK = "purify-doctor:"
PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from purify_edge.doctor import native; native.main()"
)
LOG_CHARACTERS = 20_000
REAP_S = 5


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a call of a native function ended."""

    result: dict[str, Any] = field(default_factory=dict)  # what it returned; empty where it failed
    failure: str = ""  # how it failed, in one line: an exception, a signal, a hang; empty where it did not
    log: str = ""  # the end of what was written to standard error

    @property
    def text(self) -> str:
        """Return failure and log, in which to look for the cause."""
        return f"{self.failure}\n{self.log}"


def call_native(function: str, *arguments: str, limit_s: float) -> Answer:
    """Call `native.FUNCTION(*arguments)` in a child process, for `limit_s` seconds at most."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(sys.path), function, *arguments]
    try:
        pipe, none = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=none, stdout=pipe, stderr=pipe, start_new_session=True)
    except (OSError, ValueError, TypeError) as error:
        return Answer(failure=f"cannot start {sys.executable or 'Python'}: {error}")
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return Answer(failure=f"no answer within {limit_s:g} s", log=_end_of(_kill(process)))
    except BaseException:  # Ctrl-C reaches us alone: the child has a session of its own
        _kill(process)
        raise
    return _ended(out, err, process.returncode)


def _kill(process: "subprocess.Popen[bytes]") -> bytes:
    """End a child and its children, and return what it had written to standard error.

    A child that waits inside a broken driver does not die; it is left behind.
    """
    with contextlib.suppress(OSError, AttributeError):  # gone already; no process groups on Windows
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    try:
        return process.communicate(timeout=REAP_S)[1]
    except subprocess.TimeoutExpired:
        return b""


def _ended(out: bytes, err: bytes, code: int) -> Answer:
    log = _end_of(err)
    told = _told(out)
    if told is not None:  # a library that crashes afterwards, while the interpreter ends, has done its work
        return Answer(result=told["result"], failure=printable(told["failure"]), log=log)
    if code < 0:
        return Answer(failure=f"the process was killed by {_signal_name(-code)}", log=log)
    last = log.strip().rpartition("\n")[2]
    return Answer(failure=f"the process ended with {code} and no answer{': ' if last else ''}{last}", log=log)


def _told(out: bytes) -> dict[str, Any] | None:
    for line in reversed(out.decode(errors="replace").splitlines()):
        if not line.startswith(MARK):
            continue
        with contextlib.suppress(ValueError):
            answer = json.loads(line.removeprefix(MARK))
            if isinstance(answer, dict) and answer.keys() == {"result", "failure"}:
                return answer
    return None


def _end_of(err: bytes) -> str:
    return "\n".join(printable(line) for line in err.decode(errors="replace")[-LOG_CHARACTERS:].splitlines())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def printable(text: str) -> str:
    r"""Return the text on one line, without control characters and colours: a file or a log may hold anything.

    >>> printable("NVIDIA\x1b[31m  Orin\0\n")
    'NVIDIA Orin'
    """
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())


def first_line(text: str, *, limit: int = 300) -> str:
    r"""Return the first line that says something, cut to `limit` characters.

    >>> first_line("\n  a\nb")
    'a'
    """
    lines = [printable(line) for line in text.splitlines()]
    line = next((line for line in lines if line), "")
    return line if len(line) <= limit else line[: limit - 3] + "..."
