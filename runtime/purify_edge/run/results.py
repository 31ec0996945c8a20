"""Results of single images, and the file that holds them: what is in it is done, so that a run can be continued."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from purify_edge.errors import InputError
from purify_edge.files import try_lock
from purify_edge.images.items import Key

PNG_END = b"IEND\xaeB`\x82"


class Result(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    rename={"class_name": "class"},
):
    """One image: the pipeline's answer, and the classifier's for the image as it came; or why there is none."""

    file: str  # see `purify_edge.images.items.Item`
    frame: int | None = None
    time_s: float | None = None
    label: int | None = None
    class_name: str | None = None
    probability: float | None = None
    unpurified_class: str | None = None
    unpurified_probability: float | None = None
    spared: bool | None = None  # see `Prediction`; None without --spare-clean
    suspicion: float | None = None  # see `Prediction`; None where the bundle has no threshold
    suspicious: bool | None = None
    saved: str | None = None  # the purified image's file
    error: str | None = None
    model: str  # name and precision of the models, the first digits of the manifest's SHA-256, and +spare-clean with it

    @property
    def key(self) -> Key:
        """Return that of its `purify_edge.images.items.Item`."""
        return self.file, self.frame, self.time_s

    @property
    def name(self) -> str:
        """Return its name for users."""
        return name_of(self.file, self.frame)


def name_of(file: str, frame: int | None) -> str:
    """Return the name of an image for users."""
    return file if frame is None else f"{file}, frame {frame}"


class JsonLines:
    """A JSON object a line, without what there is not."""

    header = b""
    begins = b'{"file": '

    def encode(self, result: Result) -> bytes:
        """Return a line."""
        return json.dumps(msgspec.to_builtins(result), allow_nan=False).encode() + b"\n"

    def decode(self, file: BinaryIO) -> Iterator[Result | None]:
        """Yield the results in a file; None for each line that is none."""
        for line in file:
            try:
                yield msgspec.convert(json.loads(line) if line.endswith(b"\n") else None, Result)
            except (ValueError, RecursionError):  # ValidationError is a ValueError
                yield None


class Csv:
    """Comma-separated values after a line of names; empty where there is nothing."""

    header = (",".join(Result.__struct_encode_fields__) + "\r\n").encode()
    begins = header

    def encode(self, result: Result) -> bytes:
        """Return a row."""
        text = io.StringIO(newline="")
        csv.writer(text).writerow(msgspec.structs.astuple(result))
        return text.getvalue().encode("utf-8", "surrogateescape")  # names of files need not be UTF-8

    def decode(self, file: BinaryIO) -> Iterator[Result | None]:
        """Yield the results in a file; None for each row that is none."""
        file.readline()
        torn: list[bytes] = []
        reader = csv.reader(self._whole_lines(file, torn), strict=True)
        while True:
            try:
                row = next(reader)
                cells = zip(Result.__struct_encode_fields__, row, strict=True)
                yield msgspec.convert({name: cell for name, cell in cells if cell}, Result, strict=False)
            except StopIteration:
                break
            except (csv.Error, ValueError):  # a row that ends within quotes, say
                yield None
        yield from (None for _ in torn)

    def _whole_lines(self, file: BinaryIO, torn: list[bytes]) -> Iterator[str]:
        for line in file:
            if line.endswith(b"\n"):
                yield line.decode("utf-8", "surrogateescape")
            else:
                torn.append(line)


Format = JsonLines | Csv
FORMATS: dict[str, Format] = {".jsonl": JsonLines(), ".csv": Csv()}
"""Suffix of a results file -> how it is written."""


def format_of(path: Path) -> Format:
    """Return how a results file of this name is written.

    Raises:
        InputError: its suffix is no format.
    """
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: expected a name that ends with {' or '.join(FORMATS)}")
    return FORMATS[path.suffix]


def results_in(path: Path) -> Iterator[Result]:
    """Yield the results in a file, but for those that are not whole; nothing where there is no file."""
    if path.is_file():
        with path.open("rb") as file:
            yield from filter(None, format_of(path).decode(file))


class ResultsFile:
    """A file of results that only grows; an image is done when its result is in it, and its purified image is whole.

    A line is written after its image. So a run that was killed, even by a power cut, is continued by the same command:
    a last line that is not whole, and results whose purified image is not, are dropped, and their images done again, as
    are those without an answer. One process at a time writes to the file.

    Args:
        path: the file.
        model: what writes it, see `Result.model`.
        save: the folder of purified images.
        fresh: begin anew.
        comes_again: whether an image may be met once more; a camera's frames are not, and nobody need remember them.

    Raises:
        InputError: the file is another's: not of this kind, of other models, or in use.
    """

    def __init__(
        self, path: Path, *, model: str, save: Path | None = None, fresh: bool = False, comes_again: bool = True
    ) -> None:
        path = path.resolve()  # a link stays one
        self.path, self._model, self._save, self._comes_again = path, model, save, comes_again
        self._format = format_of(path)
        self.done: set[Key] = set()
        self.saved: list[str] = []  # the files of purified images
        path.parent.mkdir(parents=True, exist_ok=True)
        self.resumed = path.exists() and not fresh
        self._file = path.open("a+b")
        self._replaced: BinaryIO | None = None
        try:
            if not try_lock(self._file):
                raise InputError(f"{path} is being written by another purify-run; wait for its end, or name another")
            if fresh:
                self._file.truncate(0)
            self._take_up()
        except BaseException:
            self.close()
            raise

    def _take_up(self) -> None:
        """Read what is there, and drop what is not whole."""
        self._file.seek(0)
        begin = self._file.read(len(self._format.begins))
        if not (begin.startswith(self._format.begins) or self._format.begins.startswith(begin)):
            raise InputError(f"{self.path} exists and holds no results of purify-run; name another, or use --force")
        if len(begin) < len(self._format.begins):
            self._file.truncate(0)
            self._file.write(self._format.header)
            self._file.flush()
            return
        dropped = {number for number, result in self._numbered() if result is None or not self._keep(result)}
        if dropped:
            self._replace(result for number, result in self._numbered() if number not in dropped)

    def _numbered(self) -> Iterator[tuple[int, Result | None]]:
        self._file.seek(0)
        return enumerate(self._format.decode(self._file))

    def _keep(self, result: Result) -> bool:
        if result.model != self._model:
            raise InputError(
                f"{self.path} was written with {result.model}, this is {self._model}; name another, or use --force"
            )
        if result.error is not None or result.key in self.done:
            return False
        if self._save and not (result.saved and _is_whole(Path(result.saved), self._save)):
            return False
        if self._comes_again:
            self.done.add(result.key)
        if result.saved:
            self.saved.append(result.saved)
        return True

    def _replace(self, results: Iterable[Result | None]) -> None:
        """Put other content in the file's place; the old one stays locked, for processes that have it open already."""
        temporary = self.path.with_name(f".{self.path.name}.part")
        with temporary.open("wb") as file:
            file.write(self._format.header)
            file.writelines(self._format.encode(result) for result in results if result)
            file.flush()
            os.fsync(file.fileno())
        replacement = temporary.open("a+b")
        try_lock(replacement)
        temporary.replace(self.path)
        self._file, self._replaced = replacement, self._file

    def append(self, results: Sequence[Result]) -> None:
        """Add results, whose purified images are on their way to the disk.

        Raises:
            OSError: they cannot be written, for example because the disk is full; it names the file.
        """
        self._write(b"".join(map(self._format.encode, results)))

    def _write(self, content: bytes) -> None:
        try:
            self._file.write(content)
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        """Close, with everything on the disk.

        Raises:
            OSError: see `append`.
        """
        try:
            if not self._file.closed:
                self._write(b"")
                os.fsync(self._file.fileno())
        finally:
            for file in (self._file, self._replaced):
                if file is not None:
                    with suppress(OSError):  # reported above
                        file.close()


def _is_whole(png: Path, folder: Path) -> bool:
    """Return whether a PNG lies in the folder, with its end."""
    try:
        with png.open("rb") as file:
            file.seek(-len(PNG_END), os.SEEK_END)
            return file.read() == PNG_END and png.is_relative_to(folder)
    except OSError:
        return False
