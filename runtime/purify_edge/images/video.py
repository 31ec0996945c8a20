"""Videos, cameras and streams, by OpenCV; an extra, imported when there is one to read or write."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError, MissingError, reason
from purify_edge.extras import require_library
from purify_edge.images.items import Item, Source, broken
from purify_edge.images.mp4 import claim_of
from purify_edge.images.pictures import fitted_frame

logger = logging.getLogger("purify_edge")

STREAM_TIMEOUT_MS = 10_000
DEFAULT_FPS = 25.0
NEARLY = 0.9  # what containers say of frames and duration is not exact


def require() -> Any:
    """Return OpenCV, imported, silent.

    Raises:
        MissingError: it is not installed.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what FFmpeg says of damaged videos we say ourselves
    return require_library("cv2", "video")


def name_for_opencv(name: str | Path) -> str:
    """Return a file's name so that FFmpeg does not take what stands before a colon for a protocol.

    Raises:
        InputError: it is not UTF-8, at which OpenCV crashes.
    """
    try:
        return os.path.abspath(name).encode().decode()  # noqa: PTH100
    except UnicodeEncodeError:
        raise InputError(f"{name} cannot be given to OpenCV, for its name is not UTF-8; rename it") from None


class Video(Source):
    """The frames of a video file. `fps` is known once its first frame is."""

    def __init__(self, path: Path, *, pictures: bool = False) -> None:
        self.path, self._pictures, self.fps = path, pictures, DEFAULT_FPS

    def items(self) -> Iterator[Item]:
        """Yield the frames, and a last item that is broken if the video ends before its time."""
        try:
            yield from self._frames()
        except InputError as error:
            yield broken(str(self.path), error)

    def _frames(self) -> Iterator[Item]:
        """Yield the frames; raise InputError where there should be more."""
        with _opened(name_for_opencv(self.path)) as capture:
            if not capture.isOpened():
                raise _unreadable(self.path)
            self.fps = _fps(capture)
            number, begin_s, end_s = 0, 0.0, 0.0
            while (frame := self._read(capture, number)) is not None:
                end_s = capture.get(require().CAP_PROP_POS_MSEC) / 1000
                begin_s = begin_s if number else end_s
                yield _item(str(self.path), self.path.name, number, end_s, frame, pictures=self._pictures)
                number += 1
            _check_end(self.path, capture, number, end_s - begin_s)

    def _read(self, capture: Any, number: int) -> NDArray[np.uint8] | None:
        try:
            good, frame = capture.read()
        except Exception as error:  # OpenCV's own, where a frame does not fit into the memory
            rest = f"{self.path}, frame {number} and all that follow"
            raise InputError(f"{rest} cannot be read ({reason(error)})") from error
        return frame if good else None

    def count(self) -> int | None:
        """Return about how many; None if the file does not say."""
        try:
            with _opened(name_for_opencv(self.path)) as capture:
                return _count(capture) or None
        except InputError:
            return None


@contextmanager
def _opened(name: str) -> Iterator[Any]:
    capture = require().VideoCapture(name)
    try:
        yield capture
    finally:
        capture.release()


def _unreadable(path: Path) -> InputError:
    try:
        with path.open("rb") as file:
            why = "it is no video that OpenCV knows, or damaged" if file.read(1) else "it is empty"
        why = why if claim_of(path).whole else "it is cut off"
    except OSError as error:
        why = str(error.strerror)
    return InputError(f"{path} cannot be read as a video ({why})")


def _check_end(path: Path, capture: Any, number: int, shown_s: float) -> None:
    """See that a video did not end before its time.

    The number of frames is an estimate: an edit list plays a part of them, and where the rate varies it is far off. So
    what counts is the time; frames that are missing in between are logged, for a pause looks no different.

    Args:
        number: the frames that were read.
        shown_s: from the first of them to the last.

    Raises:
        InputError: it did, or not a frame was decoded.
    """
    claim, count = claim_of(path), _count(capture)
    expected = round(count * claim.share)
    rate = capture.get(require().CAP_PROP_FPS)
    play_s = claim.play_s or (count / rate if rate > 0 else 0)
    if not claim.whole:
        raise InputError(f"{path} is cut off: it ended after {number} of about {expected} frames")
    if not number:
        codec = _codec(capture)
        raise InputError(
            f"{path} holds {codec} video, of which OpenCV here decodes no frame: it lacks the codec {codec}, or the "
            f"first frames are damaged; ffmpeg -i {path} -c:v libx264 NEW.mp4 converts what it can"
        )
    if number < NEARLY * expected and shown_s + play_s / max(1, expected) < NEARLY * play_s:
        raise InputError(f"{path} is damaged: it ended after {number} of about {expected} frames")
    if number < NEARLY * expected:
        logger.warning("%s gave %d of about %d frames: its rate varies, or some are missing", path, number, expected)


def _codec(capture: Any) -> str:
    code = int(capture.get(require().CAP_PROP_FOURCC)) & 0xFFFFFFFF
    return code.to_bytes(4, "little").decode("ascii", "replace").strip("\0 ") or "unknown"


def _count(capture: Any) -> int:
    return max(0, int(capture.get(require().CAP_PROP_FRAME_COUNT)))


def _fps(capture: Any) -> float:
    rate = float(capture.get(require().CAP_PROP_FPS))
    return rate if 0 < rate < 1000 else DEFAULT_FPS


def _item(file: str, folder: str, number: int, time_s: float, frame: NDArray[np.uint8], *, pictures: bool) -> Item:
    """Return the item of a frame, BGR as OpenCV gives it."""
    return Item(
        file,
        f"{folder}/{number:06d}",
        partial(_read_frame, frame, f"{file}, frame {number}"),
        frame=number,
        time_s=round(time_s, 3),
        picture=frame if pictures else None,
    )


def _read_frame(frame: NDArray[np.uint8], source: str, contract: InputContract) -> NDArray[np.uint8]:
    return fitted_frame(frame, contract, bgr=True, source=source)


class Camera(Source):
    """A camera by its number, or a stream by its URL. Frames that come while the last is still waiting are left out."""

    live = True

    def __init__(self, name: str, *, pictures: bool = False) -> None:
        self.name, self._pictures = name, pictures
        self.fps, self.dropped = DEFAULT_FPS, 0
        self._newest: tuple[float, NDArray[np.uint8]] | None = None
        self._changed = threading.Condition()
        self._ended = False

    def items(self) -> Iterator[Item]:
        """Yield the newest frame, each time one is asked for, until the stream ends.

        Raises:
            MissingError: there is no such camera, or nothing answers.
        """
        capture = self._open()
        self.fps = _fps(capture)
        self._ended = False
        reader = threading.Thread(target=self._read, args=(capture,), name="camera", daemon=True)
        reader.start()
        folder = f"camera-{self.name}" if self.name.isdigit() else "stream"
        number = 0
        try:
            while (newest := self._next()) is not None:
                yield _item(self.name, folder, number, *newest, pictures=self._pictures)
                number += 1
        finally:
            self._ended = True
            reader.join(STREAM_TIMEOUT_MS / 1000)

    def count(self) -> None:
        """Return None: that is unknown."""

    def _open(self) -> Any:
        cv2 = require()
        name_for_opencv(self.name)
        if self.name.isdigit():
            capture = cv2.VideoCapture(int(self.name))
        else:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, STREAM_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC]
            capture = cv2.VideoCapture(self.name, cv2.CAP_FFMPEG, [*limits, STREAM_TIMEOUT_MS])
        if not capture.isOpened():
            capture.release()
            what = f"camera {self.name}" if self.name.isdigit() else self.name
            advice = "see /dev/video*" if self.name.isdigit() else "does it play elsewhere?"
            raise MissingError(f"{what} cannot be opened; {advice}")
        return capture

    def _read(self, capture: Any) -> None:
        while not self._ended:
            good, frame = capture.read()
            with self._changed:
                self._ended = self._ended or not good
                if good:
                    self.dropped += self._newest is not None
                    self._newest = time.time(), frame
                self._changed.notify()
        capture.release()

    def _next(self) -> tuple[float, NDArray[np.uint8]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended)
            newest, self._newest = self._newest, None
        return newest
