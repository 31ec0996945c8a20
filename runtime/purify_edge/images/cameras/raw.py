"""Raw frames on standard input, as `gst-launch-1.0 -q ... ! fdsink` and `ffmpeg ... -f rawvideo -` write them."""

import os
import re
import select
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError
from purify_edge.images.decoding import MAX_PIXELS
from purify_edge.images.items import Item, Source, broken
from purify_edge.images.pictures import fitted_frame
from purify_edge.images.video import DEFAULT_FPS

NAME = "standard input"
CHANNELS = 3
ALIGNED = 4  # bytes: GStreamer fills up each row to a multiple of this
SLICE_S = 0.2  # how long it takes to see that it is stopped
CHATTER = b"Setting pipeline"  # what gst-launch-1.0 prints to standard output without -q


def frame_size(text: str) -> tuple[int, int]:
    """Return width and height, in pixels, of `1280x720`.

    Raises:
        InputError: it is written otherwise, or its rows would have bytes that nobody can tell from pixels.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text, re.ASCII)
    if match is None:
        raise InputError(f"expected WIDTHxHEIGHT in pixels, like 1280x720, got {text!r}")
    width, height = int(match[1]), int(match[2])
    if width * height > MAX_PIXELS:
        raise InputError(f"{text}: expected no more than {MAX_PIXELS:,} pixels; scale the frames down")
    if width * CHANNELS % ALIGNED:
        raise InputError(
            f"{text}: expected a width that is a multiple of {ALIGNED}, for GStreamer fills up the rows of others and "
            "FFmpeg does not; scale the frames before they are sent"
        )
    return width, height


class RawFrames(Source):
    """Frames of one size on a stream, uint8 `[H, W, 3]` in the order RGB without anything between them.

    All of them are given: who sends them waits meanwhile, and is the one to leave some out.
    """

    live = True

    def __init__(self, size: tuple[int, int], *, stream: BinaryIO | None = None, pictures: bool = False) -> None:
        self._width, self._height = size
        self._stream, self._pictures, self.fps = stream or sys.stdin.buffer, pictures, DEFAULT_FPS
        self._stopped = threading.Event()

    def items(self) -> Iterator[Item]:
        """Yield the frames, and a last item that is broken if the input ends within a frame, or without one."""
        if self._stream.isatty():
            raise InputError("standard input is a terminal; expected raw frames on a pipe, see --raw")
        number = 0
        while len(content := self._content()) == self._size_bytes:
            if not number and content.startswith(CHATTER):
                raise InputError("standard input begins with messages of gst-launch-1.0, not a frame; give it -q")
            yield self._item(np.frombuffer(content, np.uint8).reshape(self._height, self._width, CHANNELS), number)
            number += 1
        if self._stopped.is_set():
            return
        if content or not number:
            yield broken(NAME, InputError(self._cut_off(number, content)))

    @property
    def _size_bytes(self) -> int:
        return self._width * self._height * CHANNELS

    def _content(self) -> bytes:
        """Return the bytes of the next frame; fewer at the end, or once it is stopped."""
        content, view = bytearray(self._size_bytes), 0
        descriptor = self._stream.fileno()
        while view < len(content) and not self._stopped.is_set():
            if not select.select([descriptor], [], [], SLICE_S)[0]:
                continue
            count = os.readv(descriptor, [memoryview(content)[view:]])
            if not count:
                break
            view += count
        return bytes(content[:view]) if view < len(content) else bytes(content)

    def _item(self, frame: NDArray[np.uint8], number: int) -> Item:
        return Item(
            NAME,
            f"stream/{number:06d}",
            partial(_read_frame, frame, f"{NAME}, frame {number}"),
            frame=number,
            time_s=round(time.time(), 3),
            picture=frame[:, :, ::-1] if self._pictures else None,
        )

    def _cut_off(self, number: int, content: bytes) -> str:
        if content.startswith(CHATTER) and not number:
            return f"{NAME} has messages of gst-launch-1.0 and no frame; give it -q"
        size = f"{self._width}x{self._height}"
        where = f"within frame {number}, after {len(content):,} of {self._size_bytes:,} bytes" if content else "at once"
        return f"{NAME} ended {where}: expected frames of {size} pixels, 3 bytes each (RGB); see --raw"

    def count(self) -> None:
        """Return None: that is unknown."""

    def stop(self) -> None:
        """See `Source.stop`."""
        self._stopped.set()


def _read_frame(frame: NDArray[np.uint8], source: str, contract: InputContract) -> NDArray[np.uint8]:
    return fitted_frame(frame, contract, bgr=False, source=source)
