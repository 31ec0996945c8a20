"""Doing something as the user nobody, who may do little."""

import os
from collections.abc import Callable

import pytest

NOBODY = 65534
needs_root = pytest.mark.skipif(not hasattr(os, "fork") or os.geteuid() != 0, reason="needs root, to become nobody")


def as_nobody(function: Callable[[], str]) -> str:
    """What a function returns when nobody calls it; empty where it raises."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writer, function().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text
