"""GStreamer pipelines as feeds: a user's own, and those for a Jetson's sensors and for RTSP."""

import re
import threading
import time

import numpy as np
from numpy.typing import NDArray

from purify_edge.errors import InputError
from purify_edge.images.cameras.feeds import SILENCE_S, LostError
from purify_edge.images.cameras.gstreamer import (
    ASYNC,
    CAPS,
    FAILURE,
    NO_PREROLL,
    NS,
    NULL,
    PAUSED,
    PLAYING,
    gstreamer,
)
from purify_edge.images.video import DEFAULT_FPS

SINK = "purify"
APPSINK = re.compile(r"(?<![\w-])appsink(?![\w-])([^!]*)")
NAMED = re.compile(r"(?:^|\s)name\s*=\s*\"?([\w-]+)")
SLICE_S = 0.1  # how long it takes to see that it is stopped
SILENT_FRAMES = 3  # of a feed slower than one in SILENCE_S


def with_sink(text: str) -> tuple[str, str]:
    """Return a pipeline's text with an appsink, and that one's name.

    >>> with_sink("videotestsrc ! appsink")
    ('videotestsrc ! appsink name=purify', 'purify')
    >>> with_sink("videotestsrc ! appsink name=mine drop=true")[1]
    'mine'
    """
    found = APPSINK.search(text)
    if found is None:
        text = text.rstrip().removesuffix("!")
        return f"{text.rstrip()} ! videoconvert ! appsink name={SINK} sync=false max-buffers=2", SINK
    named = NAMED.search(found[1])
    if named:
        return text, named[1]
    place = found.start(1)
    return f"{text[:place]} name={SINK}{text[place:]}", SINK


class PipelineFeed:
    """A pipeline that runs; see `Feed`. A live one does not end by itself, unless it names a number of buffers."""

    def __init__(self, text: str, stopped: threading.Event) -> None:
        self._stopped, self._gst = stopped, gstreamer()
        self._call = self._gst.call
        self._endless = "num-buffers" not in text
        text, sink = with_sink(text)
        self._pipeline: int | None = self._gst.parse(text)
        self._bus: int = self._call["gst_element_get_bus"](self._pipeline)
        self._sink: int | None = self._call["gst_bin_get_by_name"](self._pipeline, sink.encode())
        self.live, self.fps, self._silence_s = False, DEFAULT_FPS, SILENCE_S
        try:
            if self._sink is None:
                raise InputError(f"expected a pipeline with one appsink at its end, got {text!r}")
            self._set_caps()
            self._play()
        except BaseException:
            self.close()
            raise

    def _set_caps(self) -> None:
        caps = self._call["gst_caps_from_string"](CAPS)
        self._call["gst_app_sink_set_caps"](self._sink, caps)
        self._call["gst_mini_object_unref"](caps)

    def _play(self) -> None:
        """Start it, and find out whether it is live: then it has no frame before it plays."""
        change: int = self._call["gst_element_set_state"](self._pipeline, PAUSED)
        deadline = time.monotonic() + SILENCE_S
        while change == ASYNC and not self._stopped.is_set():
            self._look_for_failure()
            if time.monotonic() > deadline:
                raise LostError(f"no frame for {SILENCE_S:g} s")
            change = self._call["gst_element_get_state"](self._pipeline, None, None, int(SLICE_S * NS))
        if change == FAILURE:
            self._look_for_failure()
            raise LostError("GStreamer gives no reason")
        self.live = change == NO_PREROLL
        self._call["gst_element_set_state"](self._pipeline, PLAYING)

    def _look_for_failure(self) -> None:
        failure = self._gst.failure_on(self._bus)
        if failure:
            raise LostError(failure)

    def read(self) -> NDArray[np.uint8] | None:
        """See `Feed`."""
        deadline = time.monotonic() + self._silence_s
        while not self._stopped.is_set():
            self._look_for_failure()
            sample = self._call["gst_app_sink_try_pull_sample"](self._sink, int(SLICE_S * NS))
            if sample:
                return self._taken(sample)
            if self._call["gst_app_sink_is_eos"](self._sink):
                self._look_for_failure()
                if self.live and self._endless:
                    raise LostError("the stream ended")
                return None
            if self.live and time.monotonic() > deadline:
                raise LostError(f"no frame for {self._silence_s:g} s")
        return None

    def _taken(self, sample: int) -> NDArray[np.uint8]:
        try:
            rate = self._gst.rate(sample)
            if 0 < rate < 1000:
                self.fps, self._silence_s = rate, max(SILENCE_S, SILENT_FRAMES / rate)
            return self._gst.pixels(sample)
        finally:
            self._call["gst_mini_object_unref"](sample)

    def close(self) -> None:
        """See `Feed`."""
        if self._pipeline is None:
            return
        self._call["gst_element_set_state"](self._pipeline, NULL)
        for thing in filter(None, (self._sink, self._bus, self._pipeline)):
            self._call["gst_object_unref"](thing)
        self._pipeline = None


def quoted(value: str) -> str:
    r"""Return a value as a pipeline's text has it.

    >>> print(quoted('rtsp://host/a"b ! c'))
    "rtsp://host/a\"b ! c"
    """
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
