"""Which files a bulk run takes: those that purify-run takes of folders, globs and names, called the same."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from purify_edge.errors import InputError, MissingError
from purify_edge.images.cameras.addresses import URL, is_camera
from purify_edge.images.items import Broken, Item, Source
from purify_edge.images.sources import Folder, ImageFile, open_source
from purify_edge.images.walking import PassedOver


@dataclass
class Inputs:
    """The files there are, each once, and what is known of them before any is read."""

    paths: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)  # name -> why it cannot be read
    repeated: int = 0  # files that were named before
    passed: PassedOver = field(default_factory=PassedOver)


def find_inputs(arguments: Sequence[str]) -> Inputs:
    """Return the files that the arguments of the command line name, in the order of `purify-run`.

    Raises:
        InputError: an argument is not a file, a folder or a glob of these.
    """
    found, known = Inputs(), set[str]()
    for source in (source for argument in arguments for source in _sources(argument)):
        for item in source.items():
            file = os.path.abspath(item.file)  # noqa: PTH100  # a Path takes longer
            if file in known:
                found.repeated += 1
                continue
            known.add(file)
            _add(item, found)
        found.passed.add(source.passed)
    return found


def _add(item: Item, found: Inputs) -> None:
    name = os.fsencode(item.file).decode("utf-8", "backslashreplace")
    if item.error:
        found.broken[name] = str(item.error)
    elif name != item.file:
        found.broken[name] = f"{name}: its name is not UTF-8, which Parquet needs; rename the file"
    elif item.time_s is not None:
        raise InputError(f"{name} is a pipe or a device, which other processes cannot read; use purify-run")
    else:
        found.paths.append(name)


def _sources(argument: str) -> Iterator[Source]:
    there = os.path.lexists(argument)
    if not there and URL.match(argument):
        raise InputError(
            f"{argument} is no file: purify-ray takes what all machines see as files; docs/bulk.md shows how to run a "
            "Ray dataset of your own, as from ray.data.read_binary_files"
        )
    if argument == "-" or (not there and is_camera(argument)):
        raise _refused(argument)
    try:
        sources = open_source(argument)
    except MissingError:  # OpenCV, for a video
        raise _refused(argument) from None
    for source in sources:
        if not isinstance(source, ImageFile | Folder | Broken):
            raise _refused(str(getattr(source, "path", argument)))
        yield source


def _refused(argument: str) -> InputError:
    return InputError(f"{argument}: expected images, folders or globs of these; purify-run takes everything else")
