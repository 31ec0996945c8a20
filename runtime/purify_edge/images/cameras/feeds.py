"""What gives a camera's frames: opened once, read until it ends or is lost."""

import threading
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from purify_edge.errors import MissingError

SILENCE_S = 10.0  # without a frame: then a camera or stream is taken for lost


class LostError(MissingError):
    """A camera or stream that cannot be opened, ended before its time, or gives no more frames; says why."""


class Feed(Protocol):
    """An open camera, stream or pipeline.

    Attributes:
        live: frames come at a pace of their own, and waiting for them to be taken makes them old.
        fps: how many of them a second, by its own word.
    """

    live: bool
    fps: float

    def read(self) -> NDArray[np.uint8] | None:
        """Return the next frame, uint8 `[H, W, 3 or more]` in the order BGR; None at its end, or once it is stopped.

        Raises:
            LostError: there should be one.
        """

    def close(self) -> None:
        """Let go of the device or connection."""


OpenFeed = Callable[[threading.Event], Feed]
"""Opens a feed, which gives up waiting once the event is set.

Raises:
    InputError: the request is impossible.
    LostError: it is not there.
    MissingError: what reads it is not installed.
"""
