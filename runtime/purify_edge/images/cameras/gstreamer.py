"""GStreamer, called by its C library: which elements there are, and pipelines whose frames are taken.

PyPI's OpenCV is built without GStreamer, Debian's and JetPack's with it; the library itself is the same everywhere, and
tells what OpenCV does not: why a pipeline fails, whether it has ended or failed, and whether it is live.
"""

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint8, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.errors import InputError, MissingError
from purify_edge.machine import user_folder

INSTALL = "sudo apt install gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
LIBRARIES = {
    "glib": "libglib-2.0.so.0",
    "core": "libgstreamer-1.0.so.0",
    "app": "libgstapp-1.0.so.0",
}
NULL, PAUSED, PLAYING = 1, 3, 4  # GstState
FAILURE, ASYNC, NO_PREROLL = 0, 2, 3  # GstStateChangeReturn
MESSAGE_ERROR = 1 << 1  # GstMessageType
MAP_READ = 1  # GstMapFlags
NS = 1_000_000_000
CAPS = b"video/x-raw,format=BGRx"  # rows without padding, and what a Jetson's converter gives
CHANNELS = 4


class _Error(ctypes.Structure):
    """A GError."""

    _fields_ = (("domain", c_uint32), ("code", c_int), ("message", c_char_p))


class _Map(ctypes.Structure):
    """A GstMapInfo."""

    _fields_ = (
        ("memory", c_void_p),
        ("flags", c_int),
        ("data", POINTER(c_uint8)),
        ("size", c_size_t),
        ("maximum", c_size_t),
        ("reserved", c_void_p * 8),
    )


_ERROR = POINTER(_Error)
_SIGNATURES: dict[str, dict[str, tuple[Any, ...]]] = {
    "glib": {"g_error_free": (None, _ERROR), "g_free": (None, c_void_p)},
    "core": {
        "gst_init_check": (c_int, c_void_p, c_void_p, POINTER(_ERROR)),
        "gst_version": (None, POINTER(c_uint), POINTER(c_uint), POINTER(c_uint), POINTER(c_uint)),
        "gst_element_factory_find": (c_void_p, c_char_p),
        "gst_parse_launch": (c_void_p, c_char_p, POINTER(_ERROR)),
        "gst_bin_get_by_name": (c_void_p, c_void_p, c_char_p),
        "gst_element_set_state": (c_int, c_void_p, c_int),
        "gst_element_get_state": (c_int, c_void_p, c_void_p, c_void_p, c_uint64),
        "gst_element_get_bus": (c_void_p, c_void_p),
        "gst_bus_timed_pop_filtered": (c_void_p, c_void_p, c_uint64, c_int),
        "gst_message_parse_error": (None, c_void_p, POINTER(_ERROR), POINTER(c_void_p)),
        "gst_sample_get_buffer": (c_void_p, c_void_p),
        "gst_sample_get_caps": (c_void_p, c_void_p),
        "gst_caps_from_string": (c_void_p, c_char_p),
        "gst_caps_get_structure": (c_void_p, c_void_p, c_uint),
        "gst_structure_get_int": (c_int, c_void_p, c_char_p, POINTER(c_int)),
        "gst_structure_get_fraction": (c_int, c_void_p, c_char_p, POINTER(c_int), POINTER(c_int)),
        "gst_buffer_map": (c_int, c_void_p, POINTER(_Map), c_int),
        "gst_buffer_unmap": (None, c_void_p, POINTER(_Map)),
        "gst_mini_object_unref": (None, c_void_p),
        "gst_object_unref": (None, c_void_p),
    },
    "app": {
        "gst_app_sink_set_caps": (None, c_void_p, c_void_p),
        "gst_app_sink_try_pull_sample": (c_void_p, c_void_p, c_uint64),
        "gst_app_sink_is_eos": (c_int, c_void_p),
    },
}
"""Library -> function -> what it returns, and what it takes."""


class GStreamer:
    """The library, initialised; `call` has its functions by their names."""

    def __init__(self) -> None:
        self.call: dict[str, Any] = {}
        try:
            for key, file in LIBRARIES.items():
                library = ctypes.CDLL(file)
                for name, (result, *arguments) in _SIGNATURES[key].items():
                    function = getattr(library, name)
                    function.restype, function.argtypes = result, arguments
                    self.call[name] = function
        except (OSError, AttributeError) as error:
            raise MissingError(f"GStreamer is not installed ({error}): {INSTALL}") from error
        with suppress(FileNotFoundError):  # no home
            registry = user_folder("XDG_CACHE_HOME", ".cache") / "gstreamer-registry"
            os.environ.setdefault("GST_REGISTRY", str(registry))  # its list of plugins, elsewhere in the home else
        failure = _ERROR()
        if not self.call["gst_init_check"](None, None, byref(failure)):
            raise MissingError(f"GStreamer cannot be started ({self._taken(failure)})")

    @property
    def version(self) -> str:
        """Return its version."""
        parts = [c_uint() for _ in range(4)]
        self.call["gst_version"](*map(byref, parts))
        return ".".join(str(part.value) for part in parts[:3])

    def has(self, element: str) -> bool:
        """Return whether an element of this name is installed."""
        found = self.call["gst_element_factory_find"](element.encode())
        if found:
            self.call["gst_object_unref"](found)
        return bool(found)

    def first_of(self, elements: Sequence[str]) -> str | None:
        """Return the first of the elements that is installed; None where none is."""
        return next(filter(self.has, elements), None)

    def parse(self, text: str) -> int:
        """Return a pipeline, as text describes it for `gst-launch-1.0`.

        Raises:
            InputError: GStreamer refuses it.
        """
        failure = _ERROR()
        pipeline: int | None = self.call["gst_parse_launch"](text.encode("utf-8", "surrogateescape"), byref(failure))
        if failure:
            if pipeline:
                self.call["gst_object_unref"](pipeline)
            raise InputError(f"GStreamer refuses the pipeline {text!r} ({self._taken(failure)})")
        assert pipeline
        return pipeline

    def failure_on(self, bus: int) -> str:
        """Return what elements have said of a failure; empty where there was none. Other messages are dropped."""
        call, reasons = self.call, []
        while message := call["gst_bus_timed_pop_filtered"](bus, 0, MESSAGE_ERROR):
            failure, debug = _ERROR(), c_void_p()
            call["gst_message_parse_error"](message, byref(failure), byref(debug))
            details = (ctypes.string_at(debug.value) if debug.value else b"").decode(errors="replace")
            reasons.append(_in_words(self._taken(failure), details))
            call["g_free"](debug)
            call["gst_mini_object_unref"](message)
        return reasons[0] if reasons else ""  # what follows are its consequences

    def _taken(self, failure: Any) -> str:
        """Return a GError's words, and free it."""
        if not failure:
            return "no reason given"
        words = (failure.contents.message or b"").decode(errors="replace")
        self.call["g_error_free"](failure)
        return words

    def pixels(self, sample: int) -> NDArray[np.uint8]:
        """Return a copy of a sample's frame, uint8 `[height, width, 4]`: BGR and nothing."""
        call, width, height, mapped = self.call, c_int(), c_int(), _Map()
        form = call["gst_caps_get_structure"](call["gst_sample_get_caps"](sample), 0)
        call["gst_structure_get_int"](form, b"width", byref(width))
        call["gst_structure_get_int"](form, b"height", byref(height))
        buffer = call["gst_sample_get_buffer"](sample)
        size = width.value * height.value * CHANNELS
        if not call["gst_buffer_map"](buffer, byref(mapped), MAP_READ):
            raise InputError("GStreamer gives a frame that this processor cannot read; convert it, by nvvidconv say")
        try:
            if mapped.size < size:
                raise InputError(f"GStreamer gives a frame of {mapped.size:,} bytes; expected {size:,}")
            frame = np.ctypeslib.as_array(mapped.data, (size,)).reshape(height.value, width.value, CHANNELS).copy()
        finally:
            call["gst_buffer_unmap"](buffer, byref(mapped))
        return frame

    def rate(self, sample: int) -> float:
        """Return the frames a second by a sample's own word; 0 where that is not known."""
        form = self.call["gst_caps_get_structure"](self.call["gst_sample_get_caps"](sample), 0)
        count, seconds = c_int(), c_int()
        found = self.call["gst_structure_get_fraction"](form, b"framerate", byref(count), byref(seconds))
        return count.value / seconds.value if found and seconds.value else 0.0


def _in_words(message: str, details: str) -> str:
    """Return a failure in one line: details are a place in GStreamer's sources, and behind it perhaps the cause."""
    cause = " ".join(details.partition("\n")[2].split())
    return f"{message.rstrip('.')}: {cause}" if cause else message.rstrip(".")


@cache
def gstreamer() -> GStreamer:
    """Return GStreamer.

    Raises:
        MissingError: it is not installed, or does not start.
    """
    return GStreamer()
