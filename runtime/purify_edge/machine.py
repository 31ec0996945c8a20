"""Memory: what the C library keeps of freed memory goes back to the system."""

import ctypes
import sys


def return_memory() -> None:
    """Return freed memory to the system; after a model was opened, for what it was read into is garbage by then.

    glibc keeps it otherwise: 20 to 30 MiB after two models of 9 MB together. Other C libraries return it themselves, or
    cannot be told.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
