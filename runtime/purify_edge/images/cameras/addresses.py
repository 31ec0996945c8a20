"""What names a camera or stream on the command line, and what reads it: OpenCV, or GStreamer."""

import os
import re
import stat
from functools import partial
from pathlib import Path

from purify_edge.errors import InputError, MissingError
from purify_edge.images.cameras.feeds import OpenFeed
from purify_edge.images.cameras.gstreamer import gstreamer
from purify_edge.images.cameras.pipelines import PipelineFeed, quoted
from purify_edge.images.video import require

NUMBER = re.compile(r"\d{1,9}", re.ASCII)
URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
PIPELINE = re.compile(r"\s!(\s|$)")  # not `[!a]*.png`, which is a glob
DEVICE = re.compile(r"/dev/video\d+", re.ASCII)
PASSWORD = re.compile(r"(//[^/@\s:]*:)[^/\s]+(?=@)|(\buser-pw=)\S+")
V4L2_MAJOR = 81  # of Linux's devices: a link in /dev/v4l/by-id leads to one

JETSON_DECODER = "nvv4l2decoder"
H264_DECODERS = (JETSON_DECODER, "v4l2h264dec", "vah264dec", "vaapih264dec", "avdec_h264", "openh264dec")
"""The elements of GStreamer that decode what nearly all network cameras send; those of hardware first."""
OF_A_JETSON = ("nvarguscamerasrc", "nvvidconv", JETSON_DECODER)
TO_MEMORY = "nvvidconv ! video/x-raw,format=BGRx"
"""From a Jetson's own memory into the processor's."""


def is_camera(argument: str) -> bool:
    """Return whether an argument of the command line is a camera, stream or pipeline, by its looks.

    >>> [is_camera(name) for name in ("0", "csi://0", "videotestsrc ! fakesink", "photos/[!a]*.png")]
    [True, True, True, False]
    """
    return bool(NUMBER.fullmatch(argument) or URL.match(argument)) or is_pipeline(argument)


def is_pipeline(argument: str) -> bool:
    """Return whether an argument is a GStreamer pipeline, by its looks."""
    return PIPELINE.search(argument) is not None


def is_camera_device(path: Path) -> bool:
    """Return whether a path is called as a V4L2 device, or is or links to one."""
    if DEVICE.fullmatch(str(path)):
        return True
    try:
        status = os.stat(path)  # noqa: PTH116  # a Path raises at NUL
    except (OSError, ValueError):
        return False
    return stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == V4L2_MAJOR


def without_password(name: str) -> str:
    """Return a name as it may be printed and logged.

    >>> without_password("rtsp://admin:secret@10.0.0.5/1")
    'rtsp://admin:***@10.0.0.5/1'
    """
    return PASSWORD.sub(r"\1\2***", name)


def opener(argument: str) -> OpenFeed:
    """Return what opens the camera, stream or pipeline that an argument names.

    Raises:
        InputError: it is not written as one.
        MissingError: what reads it is not installed.
    """
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise InputError(f"{argument!r}: expected the name of a camera or stream in UTF-8") from None
    scheme = argument.partition("://")[0].lower() if URL.match(argument) else ""
    if not scheme and is_pipeline(argument):
        gstreamer()
        return partial(PipelineFeed, argument)
    if scheme == "csi":
        return partial(PipelineFeed, csi_pipeline(argument))
    if scheme in ("rtsp", "rtsps"):
        decoder = _decoder()
        if decoder:
            return partial(PipelineFeed, rtsp_pipeline(argument, on_jetson=decoder == JETSON_DECODER))
    require()
    from purify_edge.images.cameras.opencv import OpenCVFeed

    return partial(OpenCVFeed, _device(argument) if scheme == "v4l2" else argument)


def csi_pipeline(argument: str) -> str:
    """Return the pipeline of `csi://N`, the Nth sensor of a Jetson.

    Raises:
        InputError: N is no number.
        MissingError: this is no Jetson, or its GStreamer elements are not there.
    """
    number = argument.partition("://")[2]
    if not NUMBER.fullmatch(number):
        raise InputError(f"{argument}: expected csi:// and the number of a sensor, as in csi://0")
    missing = [name for name in OF_A_JETSON[:2] if not gstreamer().has(name)]
    if missing:
        raise MissingError(
            f"{argument} is read by GStreamer's {' and '.join(missing)}, which only a Jetson has: "
            "sudo apt install nvidia-l4t-gstreamer nvidia-l4t-camera there; USB cameras are /dev/video0"
        )
    return f"nvarguscamerasrc sensor-id={number} ! video/x-raw(memory:NVMM) ! {TO_MEMORY}"


def rtsp_pipeline(url: str, *, on_jetson: bool) -> str:
    """Return the pipeline of an RTSP stream's video, over TCP; a Jetson decodes it by its hardware."""
    source = f"rtspsrc location={quoted(url)} protocols=tcp latency=100"
    return f"{source} ! application/x-rtp,media=video ! decodebin{f' ! {TO_MEMORY}' if on_jetson else ''}"


def _decoder() -> str | None:
    """Return the element by which GStreamer here would decode an RTSP stream; None where it cannot."""
    try:
        return gstreamer().first_of(H264_DECODERS) if gstreamer().has("rtspsrc") else None
    except MissingError:
        return None


def _device(argument: str) -> str:
    path = argument.partition("://")[2]
    if not path.startswith("/"):
        raise InputError(f"{argument}: expected v4l2:// and the path of a device, as in v4l2:///dev/video0")
    return path
