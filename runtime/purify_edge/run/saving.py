"""Pictures out: purified images in the folders of their originals, and videos with what was said of each frame."""

import itertools
import os
import threading
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from purify_edge.errors import InputError
from purify_edge.images.arrays import to_8bit
from purify_edge.images.pictures import image_of
from purify_edge.images.video import name_for_opencv, require

UNFINISHED = ".part-run"
COMPRESSION = 3  # half the time of the usual 6, for a tenth more bytes
MAX_REPEATS = 1000
MAX_STEM_BYTES = 230  # of the 255 that a file's name can have
MAX_PARTS = 100  # a place in a zip may have tens of thousands
CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}


class SaveFolder:
    """A folder of purified images, each below the folders that its original lay in; no two take one name.

    A file takes its name when it is whole. Nothing waits for the disk: `ResultsFile` finds what a power cut lost.
    """

    def __init__(self, path: Path, *, taken: Iterable[str] = ()) -> None:
        self.path = path
        self._files: set[str] = set()
        self._folders: set[str] = {_key(path)}
        self._made: set[Path] = set()
        self._threads, self._counter = threading.local(), itertools.count()
        path.mkdir(parents=True, exist_ok=True)
        (path / UNFINISHED).touch()
        for name in taken:
            file = Path(name)
            self._files.add(_key(file))
            self._folders.update(map(_key, file.parents))

    def reserve(self, place: str) -> Path:
        """Return a file for the image of a place, see `Item`; call it in the images' order."""
        *folders, name = PurePosixPath(place).parts[-MAX_PARTS:]
        folder = self.path
        for part in folders:
            folder = _free(folder, part, "", self._files)
            self._folders.add(_key(folder))
        file = _free(folder, name, ".png", self._files, self._folders)
        self._files.add(_key(file))
        return file

    def save(self, file: Path, purified_CHW: NDArray[np.float32]) -> None:
        """Write a purified image, float32 `[C, H, W]` in [0, 1], as PNG; any thread may."""
        if file.parent not in self._made:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(file.parent)
        temporary = self._temporary()
        to_8bit(purified_CHW).save(temporary, format="PNG", compress_level=COMPRESSION)
        temporary.replace(file)

    def _temporary(self) -> Path:
        """Return a name a thread: after a kill, the next run takes the same."""
        if not hasattr(self._threads, "name"):
            self._threads.name = self.path / f".part-{next(self._counter)}"
        name: Path = self._threads.name
        return name

    def close(self) -> None:
        """Leave nothing half written."""
        for leftover in self.path.glob(".part-*"):
            leftover.unlink(missing_ok=True)


def is_unfinished(folder: Path) -> bool:
    """Return whether a `SaveFolder` there was not closed: its process was killed."""
    return (folder / UNFINISHED).exists()


def _key(path: Path) -> str:
    return str(path).casefold()  # a folder may be copied to where upper and lower case are one


def _free(folder: Path, stem: str, suffix: str, *taken: set[str]) -> Path:
    path, count = folder / f"{_shortened(stem)}{suffix}", 1
    while any(_key(path) in names for names in taken):
        count += 1
        path = folder / f"{_shortened(stem)}-{count}{suffix}"
    return path


def _shortened(stem: str) -> str:
    """Return a name with room for a number and a suffix: a zip's names may be longer than a folder's can be."""
    encoded = os.fsencode(stem)
    return stem if len(encoded) <= MAX_STEM_BYTES else encoded[:MAX_STEM_BYTES].decode("utf-8", "ignore")


class Annotator:
    """A video of frames as they came, each with a line of text. A context manager, at whose end it takes its name.

    Raises:
        InputError: its name's suffix, or the frames' size, cannot be written.
        MissingError: OpenCV is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix.lower() not in CODECS:
            raise InputError(f"{path}: expected a name that ends with {', '.join(CODECS)}")
        self._cv2 = require()
        self._temporary = str(Path(name_for_opencv(path)).with_name(f".part-{path.name}"))
        self._writer: Any = None
        self._size = (0, 0)
        self._written, self._start_s, self._fps = 0, 0.0, 0.0

    def write(self, frame_BGR: NDArray[np.uint8], text: str, *, time_s: float, fps: float, warn: bool = False) -> None:
        """Add a frame, uint8 `[height, width, 3]` or grey; again and again, where frames before it were left out."""
        if self._writer is None:
            self._open((frame_BGR.shape[1], frame_BGR.shape[0]), fps)
            self._start_s = time_s
        image = image_of(frame_BGR, bgr=True)
        if image.size != self._size:  # a stream may change it
            image = image.resize(self._size)
        _caption(image, text, warn=warn)
        pixels = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])
        due = round((time_s - self._start_s) * self._fps) + 1
        for _ in range(min(MAX_REPEATS, max(1, due - self._written))):
            self._writer.write(pixels)
            self._written += 1

    def _open(self, size: tuple[int, int], fps: float) -> None:
        codec = self._cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
        self._size, self._fps = size, fps
        self._writer = self._cv2.VideoWriter(self._temporary, codec, fps, size)
        if not self._writer.isOpened():
            raise InputError(f"{self.path} cannot be written as {self.path.suffix} of {size[0]} x {size[1]} pixels")

    def __enter__(self) -> "Annotator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Complete the video as far as it came; Ctrl-C is how a camera's is ended. After an error there is none."""
        if self._writer is None:
            return
        self._writer.release()
        if kind is None or kind is KeyboardInterrupt:
            Path(self._temporary).replace(self.path)
        else:
            Path(self._temporary).unlink(missing_ok=True)


def _caption(image: Image.Image, text: str, *, warn: bool) -> None:
    height = max(10, image.height // 18)
    font = ImageFont.load_default(height)
    draw = ImageDraw.Draw(image)
    box = (0, image.height - height * 3 // 2, image.width, image.height)
    draw.rectangle(box, fill="firebrick" if warn else "black")
    draw.text((height // 3, box[1] + height // 8), text, "white", font)
