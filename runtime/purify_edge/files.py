"""Writing files so that none is ever left half written."""

import errno
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

logger = logging.getLogger("purify_edge")

WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""What a file system that has no locks answers."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Provide a temporary sibling to write to; it takes the name `path` only if the block succeeds.

    Where `path` is a link, the file that it leads to is replaced, and the link stays. A pipe or a device, as /dev/null,
    is written to as it is: root would replace it.
    """
    path = path.resolve()
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    temporary = path.with_name(f".new-{secrets.token_hex(8)}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less the umask, as any file
    try:
        yield temporary
        with temporary.open("rb") as file:  # on the disk before it takes the name
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(path: Path, content: object) -> None:
    """Write JSON, indented, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


@contextmanager
def locked(path: Path, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a file, which is made and stays; `waiting` is called when another process holds it."""
    with path.open("a") as file:
        if not try_lock(file):
            waiting()
            try_lock(file, wait=True)
        yield


def try_lock(file: IO[Any], *, wait: bool = False) -> bool:
    """Lock an open file until it is closed; False if another process has locked it, unless it is to be waited for.

    Where the system or the file system has no locks: True, and the log says so.
    """
    try:
        import fcntl  # of POSIX only

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in WITHOUT_LOCKS:
            raise
        logger.warning("%s lies where files cannot be locked: let one process at a time write there", file.name)
    return True
