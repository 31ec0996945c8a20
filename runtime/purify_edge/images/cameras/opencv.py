"""Cameras and streams by OpenCV: V4L2 devices, and what FFmpeg or another of its backends reads by a URL."""

import os
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.errors import reason
from purify_edge.images.cameras.feeds import SILENCE_S, LostError
from purify_edge.images.video import fps_of, require


class OpenCVFeed:
    """A camera by its number, a V4L2 device by its path, or a URL; see `Feed`.

    A URL that says how many frames there are is that of a file: all of them are taken, and it has an end.
    """

    def __init__(self, name: str, stopped: threading.Event) -> None:
        cv2 = require()
        self._stopped, self._capture = stopped, _captured(cv2, name)
        if not self._capture.isOpened():
            self._capture.release()
            raise LostError(_reason(name))
        self.live = "://" not in name or not 0 < self._capture.get(cv2.CAP_PROP_FRAME_COUNT) < 1e9
        self.fps = fps_of(self._capture)

    def read(self) -> NDArray[np.uint8] | None:
        """See `Feed`."""
        if self._stopped.is_set():
            return None
        try:
            good, frame = self._capture.read()
        except Exception as error:  # OpenCV's own
            raise LostError(reason(error)) from error
        if good:
            found: NDArray[np.uint8] = frame
            return found
        if self.live:
            raise LostError("the stream ended, or gave no frame")
        return None

    def close(self) -> None:
        """See `Feed`."""
        self._capture.release()


def _captured(cv2: Any, name: str) -> Any:
    if name.isdigit():
        return cv2.VideoCapture(int(name))
    if "://" not in name:
        return cv2.VideoCapture(name, cv2.CAP_V4L2)
    if not cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
        return cv2.VideoCapture(name)  # by GStreamer, in builds that have it alone
    limit_ms = int(SILENCE_S * 1000)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit_ms]
    return cv2.VideoCapture(name, cv2.CAP_FFMPEG, limits)


def _reason(name: str) -> str:
    """Return why a device cannot be opened, as far as its file tells; empty where it does not."""
    if not name.startswith("/"):
        return ""
    if not os.path.exists(name):  # noqa: PTH110
        return "there is no such device"
    if not os.access(name, os.R_OK | os.W_OK):
        return "this user may not: sudo usermod -aG video $USER, and log in again"
    return "it gives no pictures, or another program uses it"
