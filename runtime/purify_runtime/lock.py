"""A lock between processes: held by one, waited for by the others, let go by the kernel if its holder is killed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a file, which is made and stays; `waiting` is called when another process holds it."""
    import fcntl  # of POSIX only; whoever builds no engines needs no lock

    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
