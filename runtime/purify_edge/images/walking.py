"""Which files of a folder or zip are taken for images: one rule for training, evaluation and device.

An image is a file with one of IMAGE_SUFFIXES. Hidden files and folders, whose names begin with a dot, and what macOS
puts into zips (`__MACOSX`) are passed over, as are files of other kinds; all of them are counted. Links are followed,
and each folder is entered once.
"""

import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from purify_edge.errors import InputError
from purify_edge.images.decoding import IMAGE_SUFFIXES

NAMED = 5
MOST_SUFFIXES = 1000
SPECIAL = "pipes and devices"


@dataclass
class PassedOver:
    """What a walk leaves out: hidden files and folders, and files of other kinds by their suffixes."""

    hidden: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return bool(self.hidden or self.others)

    def add(self, other: "PassedOver") -> None:
        """Count what another walk left out too."""
        self.hidden += other.hidden
        self.others.update(other.others)

    def __str__(self) -> str:
        """Describe it, as `3 files of other kinds (.txt 2, .md 1), 1 hidden`."""
        ordered = sorted(self.others.items(), key=lambda entry: (-entry[1], entry[0]))
        most = ", ".join(f"{suffix or 'without a suffix'} {count:,}" for suffix, count in ordered[:NAMED])
        dots = ", ..." if len(self.others) > NAMED else ""
        count = self.others.total()
        parts = [f"{count:,} file{'s' * (count != 1)} of other kinds ({most}{dots})"] if count else []
        return ", ".join(parts + ([f"{self.hidden:,} hidden"] if self.hidden else []))

    def takes(self, name: str) -> bool:
        """Return whether a file of this name is an image; count it where it is none."""
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  # a Path takes longer
        if is_hidden(name):
            self.hidden += 1
        elif suffix in IMAGE_SUFFIXES:
            return True
        else:
            self.others[suffix if len(self.others) < MOST_SUFFIXES else "others"] += 1
        return False


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is passed over, regardless of its content."""
    return name.startswith(".") or name == "__MACOSX"


def images_below(folder: str, passed: PassedOver) -> Iterator[str | InputError]:
    """Yield the path of each image in a folder and all below it, sorted, and an error for a folder that is unreadable.

    Args:
        folder: where to begin; `.` and hidden names are fine here.
        passed: gets what is left out.
    """
    entered: set[tuple[int, int]] = set()
    levels = [_entries(folder, entered)]  # not by recursion: folders may be nested more deeply than functions
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
        elif isinstance(entry, InputError):
            yield entry
        elif _is_folder(entry):
            if is_hidden(entry.name):
                passed.hidden += 1
            else:
                levels.append(_entries(entry.path, entered))
        elif not _is_file(entry):
            passed.others[SPECIAL] += 1
        elif passed.takes(entry.name):
            yield entry.path


def _entries(folder: str, entered: set[tuple[int, int]]) -> Iterator["os.DirEntry[str] | InputError"]:
    """Yield what a folder that was not entered yet holds, sorted."""
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
    yield from found


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle, say
        return False


def _is_file(entry: "os.DirEntry[str]") -> bool:
    """Return whether to read an entry; a link that leads nowhere is read too, for reading tells that it is broken."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))  # noqa: PTH110
    except OSError:
        return entry.is_symlink()


def place_in_zip(member: zipfile.ZipInfo) -> PurePosixPath:
    """Return where a member of a zip belongs; the place never leads out of a folder."""
    return PurePosixPath(*(part for part in PurePosixPath(member.filename).parts if part.strip("./\\")))


def takes_from_zip(place: PurePosixPath, member: zipfile.ZipInfo, passed: PassedOver) -> bool:
    """Return whether a member of a zip, at its place, is an image; `passed` gets what is left out."""
    if not place.parts or member.is_dir():  # in this order: `is_dir` fails on an empty name
        return False
    if any(map(is_hidden, place.parts[:-1])):
        passed.hidden += 1
        return False
    return passed.takes(place.name)
