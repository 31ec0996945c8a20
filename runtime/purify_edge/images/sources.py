"""What there is to run: files, folders, globs, zips, videos, cameras and lists of them, as images one by one."""

import glob
import os
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError, PurifyError
from purify_edge.images.cameras.addresses import is_camera, is_camera_device, is_pipeline
from purify_edge.images.cameras.camera import RECONNECT_S, Camera
from purify_edge.images.decoding import IMAGE_SUFFIXES, MAX_FILE_BYTES, decode_image, read_image
from purify_edge.images.items import Broken, Item, Source, broken
from purify_edge.images.walking import PassedOver, images_below, place_in_zip, takes_from_zip

VIDEO_SUFFIXES = frozenset([".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"])


def open_source(argument: str, *, pictures: bool = False, reconnect_s: float = RECONNECT_S) -> list[Source]:
    """Return the sources that an argument of the command line names; several where it is a glob.

    Args:
        argument: a file, folder, zip, video or glob; a camera, stream or GStreamer pipeline; `-` for standard input.
        pictures: keep the frames of videos as they came.
        reconnect_s: how long to try to get back a camera or stream that was lost.

    Raises:
        InputError: it is written as a camera, and wrongly.
        MissingError: a video, camera or stream, and what reads it is not installed.
    """
    if argument == "-":
        return [Listing(sys.stdin.buffer)]
    path = Path(argument)
    exists = os.path.lexists(argument)
    if is_camera_device(path) or (is_camera(argument) and not exists):
        return [Camera(argument, pictures=pictures, reconnect_s=reconnect_s)]
    if exists:
        return [_of_path(path, pictures)]
    if glob.has_magic(argument):
        found = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  # Path.glob takes no absolute pattern
        if not found:
            return [Broken(argument, InputError(f"{argument}: nothing matches"))]
        return [_of_path(Path(name), pictures) for name in found]
    return [ImageFile(path) if argument else Broken(argument, InputError("an input is empty: '', not a name"))]


def _of_path(path: Path, pictures: bool) -> Source:
    if os.path.isdir(path):  # noqa: PTH112  # a Path raises where it cannot look
        return Folder(path)
    if _is_pipe(path):
        return ImageFile(path)
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return Zip(path)
    if suffix in VIDEO_SUFFIXES:
        from purify_edge.images.video import Video, require

        require()
        return Video(path, pictures=pictures)
    return ImageFile(path)


def _is_pipe(path: Path) -> bool:
    return os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113  # a Path raises, see above


@dataclass(frozen=True)
class ImageFile(Source):
    """A file that was named, with any suffix."""

    path: Path

    def items(self) -> Iterator[Item]:
        """Yield the file; a pipe, which gives another image each time, with the time."""
        item = _file_item(str(self.path), self.path.name)
        if _is_pipe(self.path):
            item.time_s = round(time.time(), 3)
        yield item


def _file_item(name: str, relative: str) -> Item:
    return Item(name, os.path.splitext(relative)[0], partial(read_image, name))  # noqa: PTH122


class Folder(Source):
    """The images in a folder and all below it, sorted; see `purify_edge.images.walking`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def items(self) -> Iterator[Item]:
        """Yield the images; where there are none, a broken item that says so."""
        root, passed, none = str(self.path), PassedOver(), True
        for file in images_below(root, passed):
            none = False
            if isinstance(file, InputError):
                yield broken(root, file)
            else:
                yield _file_item(file, file[len(root) :].lstrip("/"))
        self.passed = passed
        if none:
            yield _no_images(root, passed)


class Zip(Source):
    """The images in a zip file, in its order; it is never unpacked to the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def items(self) -> Iterator[Item]:
        """Yield the images; where there are none, a broken item that says so."""
        passed, none = PassedOver(), True
        try:
            archive = zipfile.ZipFile(self.path)
        except Exception as error:  # zipfile raises almost anything at a damaged file
            yield broken(str(self.path), InputError(f"{self.path} cannot be read as a zip ({error})"))
            return
        for member in archive.infolist():
            place = place_in_zip(member)
            if takes_from_zip(place, member, passed):
                none, name = False, f"{self.path}/{member.filename}"
                yield Item(name, str(place.with_suffix("")), partial(_read_member, archive, member, name))
        self.passed = passed
        if none:
            yield _no_images(str(self.path), passed)


def _no_images(name: str, passed: PassedOver) -> Item:
    instead = f"only {passed}" if passed else "it is empty"
    known = " ".join(sorted(IMAGE_SUFFIXES))
    return broken(name, InputError(f"{name} has no images, {instead}; images are named {known}"))


def _read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, contract: InputContract
) -> NDArray[np.uint8]:
    if member.file_size > MAX_FILE_BYTES:
        raise InputError(f"{name} has {member.file_size:,} bytes, more than {MAX_FILE_BYTES:,}; is it an image?")
    try:
        with archive.open(member) as file:
            content = file.read()  # no more than file_size: zipfile sees to that
    except Exception as error:
        raise InputError(f"{name} cannot be read ({error})") from error
    return decode_image(content, contract, source=name)


class Listing(Source):
    """Arguments on a stream, one a line, taken as they come, and as often as they come."""

    live = True

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.passed = stream, PassedOver()

    def items(self) -> Iterator[Item]:
        """Yield the images of all of them; what cannot be opened is a broken item."""
        for line in self.stream:
            argument = os.fsdecode(line.rstrip(b"\r\n"))
            try:
                if is_pipeline(argument) and not os.path.lexists(argument):
                    raise InputError(
                        "a list names no GStreamer pipeline, which can write files; give it as an argument"
                    )
                for source in open_source(argument) if argument not in ("", "-") else ():
                    yield from source.items()
                    self.passed.add(source.passed)
            except PurifyError as error:
                yield broken(argument, InputError(str(error)))

    def count(self) -> None:
        """Return None: that is unknown."""
