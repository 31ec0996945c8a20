"""What there is to run: files, folders, globs, zips, videos, cameras and lists of them, as images one by one."""

import glob
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError
from purify_edge.images.decoding import MAX_FILE_BYTES, decode_image, is_image_name, read_image
from purify_edge.images.items import Broken, Item, Source, broken

VIDEO_SUFFIXES = frozenset([".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"])
STREAM = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def open_source(argument: str, *, pictures: bool = False) -> list[Source]:
    """Return the sources that an argument of the command line names; several where it is a glob.

    Args:
        argument: a file, folder, zip, video or glob; the number of a camera, or a stream's URL; `-` for standard input.
        pictures: keep the frames of videos as they came.

    Raises:
        MissingError: a video, camera or stream, and OpenCV is not installed.
    """
    if argument == "-":
        return [Listing(sys.stdin.buffer)]
    path = Path(argument)
    if os.path.lexists(path):
        return [_of_path(path, pictures)]
    if STREAM.match(argument) or argument.isdigit():
        from purify_edge.images.video import Camera, require

        require()
        return [Camera(argument, pictures=pictures)]
    if glob.has_magic(argument):
        found = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  # Path.glob takes no absolute pattern
        if not found:
            return [Broken(argument, InputError(f"{argument}: nothing matches"))]
        return [_of_path(Path(name), pictures) for name in found]
    return [ImageFile(path)]  # which is not there; reading it says so


def _of_path(path: Path, pictures: bool) -> Source:
    if path.is_dir():
        return Folder(path)
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return Zip(path)
    if suffix in VIDEO_SUFFIXES:
        from purify_edge.images.video import Video, require

        require()
        return Video(path, pictures=pictures)
    return ImageFile(path)


@dataclass(frozen=True)
class ImageFile(Source):
    """A file that was named, whatever its suffix."""

    path: Path

    def items(self) -> Iterator[Item]:
        """Yield the file."""
        yield _file_item(str(self.path), self.path.name)


def _file_item(name: str, relative: str) -> Item:
    return Item(name, os.path.splitext(relative)[0], partial(read_image, name))  # noqa: PTH122


@dataclass(frozen=True)
class Folder(Source):
    """The images in a folder and all below it, sorted; links to folders are followed, each folder is entered once."""

    path: Path

    def items(self) -> Iterator[Item]:
        """Yield the images."""
        root = str(self.path)
        for file in self._walk(root, set()):
            if isinstance(file, InputError):
                yield broken(root, file)
            else:
                yield _file_item(file, file[len(root) :].lstrip("/"))

    def _walk(self, folder: str, entered: set[tuple[int, int]]) -> Iterator[str | InputError]:
        try:
            status = os.stat(folder)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in entered:
                return
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield InputError(f"{folder} cannot be read ({error.strerror})")
            return
        for entry in found:
            if _is_folder(entry):
                if not entry.name.startswith("."):
                    yield from self._walk(entry.path, entered)
            elif is_image_name(entry.name) and (entry.is_symlink() or entry.is_file()):
                yield entry.path


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle, say
        return False


@dataclass(frozen=True)
class Zip(Source):
    """The images in a zip file, in its order; it is never unpacked to the disk."""

    path: Path

    def items(self) -> Iterator[Item]:
        """Yield the images."""
        try:
            archive = zipfile.ZipFile(self.path)
            members = [member for member in archive.infolist() if _is_image(member.filename)]
        except Exception as error:  # zipfile raises almost anything at a damaged file
            yield broken(str(self.path), InputError(f"{self.path} cannot be read as a zip ({error})"))
            return
        for member in members:
            inside = [part for part in PurePosixPath(member.filename).parts if part.strip("./\\")]
            name = f"{self.path}/{member.filename}"
            place = str(PurePosixPath(*inside).with_suffix(""))
            yield Item(name, place, partial(_read_member, archive, member, name))


def _is_image(member: str) -> bool:
    return is_image_name(member.rpartition("/")[2]) and not member.startswith("__MACOSX/")


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


@dataclass(frozen=True)
class Listing(Source):
    """Arguments on a stream, one a line, taken as they come."""

    stream: IO[bytes]
    live = True

    def items(self) -> Iterator[Item]:
        """Yield the images of all of them."""
        for line in self.stream:
            argument = os.fsdecode(line.rstrip(b"\r\n"))
            for source in open_source(argument) if argument not in ("", "-") else ():
                yield from source.items()

    def count(self) -> None:
        """Return None: that is unknown."""
