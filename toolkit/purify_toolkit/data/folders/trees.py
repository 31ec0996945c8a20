"""Where a user's images lie: in a folder, a zip or a folder of zips, each known by its path there."""

import zipfile
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from purify_edge.errors import InputError, reason
from purify_edge.images.walking import PassedOver, images_below, is_hidden, place_in_zip, takes_from_zip

LAYOUT = "expected SPLIT/CLASS/FILE, the splits being train, test and perhaps validation, in a folder or in zips"
UNSPLIT = "or CLASS/FILE, of which splits are made; --labels FILE.csv or --unlabelled where folders are no classes"
PARTS = {"train": ("train", "training"), "validation": ("validation", "valid", "val"), "test": ("test", "testing")}
"""Each part of a dataset, and what its folder may be called, in any case; the first counts most."""

KNOWN = ("train", "test", *PARTS["validation"])


def part_of(folder: str) -> str | None:
    """Return the part of a dataset that a folder of this name holds.

    >>> part_of("Valid"), part_of("cats")
    ('validation', None)
    """
    return next((part for part, names in PARTS.items() if folder.casefold() in names), None)


class FolderTree:
    """The images of a folder."""

    kind = "folder"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __str__(self) -> str:
        return str(self._folder)

    def folders(self, place: str) -> list[str]:
        """Return the names of the folders in one; `""` is the top."""
        entries = sorted((self._folder / place).iterdir())
        return [entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name)]

    def images(self, place: str, passed: PassedOver) -> list[str]:
        """Return the paths of all images below a folder; `passed` gets what else is there."""
        found = []
        for path in images_below(str(self._folder / place), passed):
            if isinstance(path, InputError):
                raise path
            found.append(Path(path).relative_to(self._folder).as_posix())
        return found

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return (self._folder / name).read_bytes()


class ZipTree:
    """The images of a zip or of a folder of zips, by the paths inside; where two zips have one, the later is taken.

    Where a zip has all it holds in one folder, as the archives of a repository do, paths begin below that; but not
    where that is a part of the dataset, or has images and no folders: it is a class then.
    """

    kind = "zip"

    def __init__(self, source: Path, stack: ExitStack) -> None:
        archives = [source] if source.is_file() else sorted(source.glob("*.zip"))
        self._files: dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]] = {}
        self._folders: set[PurePosixPath] = set()
        self._source = source
        self._passed: dict[str, PassedOver] = {}
        for path in archives:
            try:
                self._add(stack.enter_context(zipfile.ZipFile(path)))
            except zipfile.BadZipFile as error:
                raise InputError(f"{path} cannot be unpacked ({reason(error)}); {LAYOUT}") from error

    def _add(self, archive: zipfile.ZipFile) -> None:
        inside = [(place_in_zip(member), member) for member in archive.infolist()]
        seen = [(place, member) for place, member in inside if place.parts and not any(map(is_hidden, place.parts))]
        tops = {place.parts[0] for place, _ in seen}
        depth = 1 if len(tops) == 1 and _is_mere_top(seen, *tops) else 0
        for place, member in inside:
            top = "".join(place.parts[depth : depth + 1])
            below = PurePosixPath(*place.parts[depth:])
            if takes_from_zip(place, member, self._passed.setdefault(top, PassedOver())):
                self._files[str(below)] = archive, member
        for place, member in seen:
            parts = place.parts[depth:] if member.is_dir() else place.parts[depth:-1]
            self._folders |= {PurePosixPath(*parts[: count + 1]) for count in range(len(parts))}

    def __str__(self) -> str:
        return str(self._source)

    def folders(self, place: str) -> list[str]:
        """Return the names of the folders in one; `""` is the top."""
        return sorted(folder.name for folder in self._folders if str(folder.parent) == (place or "."))

    def images(self, place: str, passed: PassedOver) -> list[str]:
        """Return the paths of all images below a folder; `passed` gets what else is there."""
        for top, others in self._passed.items():
            if place in ("", top):
                passed.add(others)
        return [name for name in self._files if not place or name.startswith(f"{place}/")]

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        archive, info = self._files[name]
        try:
            return archive.read(info)
        except Exception as error:  # damaged in one of many ways, encrypted, packed by an odd method
            raise InputError(f"{name} cannot be unpacked from {archive.filename} ({reason(error)})") from error


def _is_mere_top(members: list[tuple[PurePosixPath, zipfile.ZipInfo]], top: str) -> bool:
    """Return whether the only folder of a zip is neither a part of a dataset nor a class."""
    folders = {place.parts[1] for place, member in members if len(place.parts) > (1 if member.is_dir() else 2)}
    return bool(folders) and (part_of(top) is None or (top not in KNOWN and "train" in map(part_of, folders)))


Tree: TypeAlias = FolderTree | ZipTree


def open_tree(source: Path, stack: ExitStack) -> Tree:
    """Return the images of a folder with folders for its parts, else of its zips, else of a folder; or of a zip."""
    if source.is_dir():
        if (source / "train").is_dir() or not any(source.glob("*.zip")):
            return FolderTree(source)
    elif not source.is_file():
        raise InputError(f"{source} is no folder or zip; {LAYOUT}; {UNSPLIT}")
    return ZipTree(source, stack)
