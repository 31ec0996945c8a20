"""What an export tells of itself while it works."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[str], None]


def silent(text: str) -> None:
    """Tell nobody."""


@contextmanager
def stage(tell: Tell, title: str) -> Iterator[None]:
    """Tell the title of a stage and how long it took, once it has succeeded."""
    start = time.perf_counter()
    yield
    tell(f"{title}: {time.perf_counter() - start:.1f} s")
