"""Other processes: what they do, and what is done to them."""

import json
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_for(condition: Callable[[], object], *, seconds: float = 300) -> None:
    """Wait until a condition holds; the limit is for what hangs, on a busy machine too."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def fill_the_disk(size: int) -> None:
    """Let this process write no file over a size: it fails as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def has_ended(process: int) -> bool:
    """Whether a process is gone, but for what its parent has not asked for yet."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter where it goes while it is read
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def json_lines(out: str) -> list[dict[str, Any]]:
    """What a command printed, a value a line."""
    return [json.loads(line) for line in out.splitlines()]
