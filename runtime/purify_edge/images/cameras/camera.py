"""A camera, stream or pipeline as a source: the newest frame, and once more from the start where it was lost."""

import logging
import threading
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from purify_edge.errors import InputError, MissingError
from purify_edge.images.cameras.addresses import NUMBER, opener, without_password
from purify_edge.images.cameras.feeds import Feed, LostError
from purify_edge.images.items import Item, Source, broken
from purify_edge.images.video import DEFAULT_FPS, frame_item

logger = logging.getLogger("purify_edge")

RECONNECT_S = 300.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
GRACE_S = 0.5  # for the thread, which may wait for a device that gives nothing

Frame = NDArray[np.uint8]


class Camera(Source):
    """A camera, stream or pipeline, read by a thread of its own.

    Of what is live the newest frame is given, and those that came while the last was still waiting are left out and
    counted. Of a pipeline or URL that is not, a file's, every frame is given.

    Args:
        argument: see `opener`.
        pictures: keep the frames as they came.
        reconnect_s: how long to try to get it back each time that it is lost.

    Attributes:
        dropped: frames that were left out.
        returns: how often it was lost and came back.

    Raises:
        InputError, MissingError: see `opener`.
    """

    live = True

    def __init__(self, argument: str, *, pictures: bool = False, reconnect_s: float = RECONNECT_S) -> None:
        self.name, self._pictures, self._reconnect_s = without_password(argument), pictures, reconnect_s
        self._argument, self._open = argument, opener(argument)
        self.fps, self.dropped, self.returns = DEFAULT_FPS, 0, 0
        self._newest: tuple[float, Frame] | None = None
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._ended = False
        self._error: Exception | None = None  # why it could not be opened
        self._lost: InputError | None = None  # why there is no more

    def items(self) -> Iterator[Item]:
        """Yield the newest frame, each time one is requested; a last, broken item where it is lost for good.

        Raises:
            InputError: GStreamer refuses the pipeline.
            MissingError: there is no such camera, or nothing answers.
        """
        reader = threading.Thread(target=self._work, name="camera", daemon=True)
        reader.start()
        folder = f"camera-{self.name}" if NUMBER.fullmatch(self.name) else "stream"
        number = 0
        try:
            while (newest := self._next()) is not None:
                yield frame_item(self.name, folder, number, *newest, pictures=self._pictures)
                number += 1
        finally:
            self.stop()
            reader.join(GRACE_S)
        if self._error:
            raise self._error
        if self._lost:
            yield broken(self.name, self._lost)

    def count(self) -> None:
        """Return None: that is unknown."""

    def stop(self) -> None:
        """See `Source.stop`."""
        with self._changed:
            self._stopped.set()
            self._newest = None
            self._changed.notify_all()

    def _next(self) -> tuple[float, Frame] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended or self._stopped.is_set())
            newest, self._newest = self._newest, None
            self._changed.notify_all()
        return newest

    def _work(self) -> None:
        """Read until the end, or until what was lost does not come back."""
        try:
            feed: Feed | None = self._opened()
            while feed is not None:
                feed = self._followed(feed)
        except LostError as error:
            if not self._stopped.is_set():  # else that may be why, and nobody waits for it
                self._error = MissingError(self._in_words(error))
        except Exception as error:  # raised where the items are taken
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _in_words(self, error: LostError) -> str:
        why = f" ({without_password(str(error))})" if str(error) else ""
        if NUMBER.fullmatch(self.name):
            return f"camera {self.name} cannot be opened{why}; see /dev/video*"
        advice = "see /dev/video*" if "/dev/" in self.name else "does it play elsewhere?"
        return f"{self.name} cannot be opened{why}; {advice}"

    def _opened(self) -> Feed:
        """Open it and take its first frame: that alone shows that it is there."""
        feed = self._open(self._stopped)
        try:
            frame = feed.read()
            if frame is None and not self._stopped.is_set():
                raise LostError("it ended without a frame")
        except BaseException:
            feed.close()
            raise
        self.fps = feed.fps
        if frame is not None:
            self._put(frame, live=feed.live)
        return feed

    def _followed(self, feed: Feed) -> Feed | None:
        """Read to the end or the loss; return what is to be read then."""
        try:
            while (frame := feed.read()) is not None:
                self._put(frame, live=feed.live)
        except LostError as error:
            lost = error
        else:
            return None
        finally:
            feed.close()
        return self._again(lost)

    def _again(self, lost: LostError) -> Feed | None:
        """Open it once more, after pauses that grow; None once it is stopped, or has been tried for long enough."""
        begin, pause_s = time.monotonic(), FIRST_PAUSE_S
        while (left_s := self._reconnect_s - (time.monotonic() - begin)) > 0:
            pause_s = min(pause_s, left_s)
            why = without_password(str(lost))
            logger.warning("%s was lost (%s); trying again in %.3g s", self.name, why, pause_s)
            if self._stopped.wait(pause_s):
                return None
            try:
                feed = self._opened()
            except LostError as error:
                lost = error if str(error) else lost
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                self.returns += 1
                logger.warning("%s is back after %.0f s", self.name, time.monotonic() - begin)
                return feed
        if self._stopped.is_set():
            return None
        why = without_password(str(lost))
        tried = f", and not back within {self._reconnect_s:g} s" if self._reconnect_s else ""
        self._lost = InputError(f"{self.name} was lost{tried} ({why})")
        return None

    def _put(self, frame: Frame, *, live: bool) -> None:
        """Have a frame taken next, instead of one that waits; where it is not live, after that one."""
        with self._changed:
            if not live:
                self._changed.wait_for(lambda: self._newest is None or self._stopped.is_set())
            if not self._stopped.is_set():
                self.dropped += self._newest is not None
                self._newest = time.time(), frame
                self._changed.notify_all()
