"""Videos, by OpenCV; an extra, imported when there is one to read or write."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError, reason
from purify_edge.extras import require_library
from purify_edge.images.items import Item, Source, broken
from purify_edge.images.mp4 import claim_of
from purify_edge.images.pictures import fitted_frame

logger = logging.getLogger("purify_edge")

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
            self.fps = fps_of(capture)
            number, begin_s, end_s = 0, 0.0, 0.0
            while (frame := self._read(capture, number)) is not None:
                end_s = capture.get(require().CAP_PROP_POS_MSEC) / 1000
                begin_s = begin_s if number else end_s
                yield frame_item(str(self.path), self.path.name, number, end_s, frame, pictures=self._pictures)
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
    """Check that a video did not end too early.

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


def fps_of(capture: Any) -> float:
    """Return an open video's or camera's frames a second, or DEFAULT_FPS where it does not say."""
    rate = float(capture.get(require().CAP_PROP_FPS))
    return rate if 0 < rate < 1000 else DEFAULT_FPS


def frame_item(file: str, folder: str, number: int, time_s: float, frame: NDArray[np.uint8], *, pictures: bool) -> Item:
    """Return the item of a frame of a video or camera, BGR as OpenCV gives it."""
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
