"""Which output of a network each class of the data is: by a table, or by the names of both where that is evident."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from purify_edge.errors import InputError, reason
from purify_toolkit.data.folders.labels_file import few

ClassMap: TypeAlias = Mapping[str, str | int]
"""The class or index of an output by the class of the data."""
NAMES_HOW = 'expected a name a line, ["tench", ...], {"0": "tench", ...} or {"0": ["n01440764", "tench"], ...}'
MAP_HOW = 'expected {"FOLDER": INDEX or "NAME", ...} or lines FOLDER,INDEX or FOLDER,NAME'
REMEDY = "--class-map FILE says which output each is"


@dataclass(frozen=True)
class OutputNames:
    """The names of a network's outputs, and of some networks a second name of each, WordNet's."""

    names: tuple[str, ...]
    ids: tuple[str, ...] = ()

    def matching(self, name: str) -> list[int]:
        """Return the outputs that are called so: by id, name, or one of several names between commas."""
        if name in self.ids:
            return [self.ids.index(name)]
        wanted, called = _plain(name), [_plain(own) for own in self.names]
        whole = [index for index, own in enumerate(called) if own == wanted]
        return whole or [index for index, own in enumerate(called) if wanted in own.split(", ")]


def read_class_names(path: Path) -> OutputNames:
    """Read the names of a network's outputs, in their order; raise InputError where the file holds none."""
    text = _read(path, "--class-names", NAMES_HOW)
    content = _json(text) if text.lstrip()[:1] in ("[", "{") else [line.strip() for line in text.splitlines()]
    if isinstance(content, dict):
        content = [content.get(str(index)) for index in range(len(content))]
    pairs = [entry if isinstance(entry, list) else [entry] for entry in content or ()]
    are_names = all(isinstance(part, str) and part for pair in pairs for part in pair)
    if len(pairs) < 2 or not are_names or not {len(pair) for pair in pairs} <= {1, 2}:
        raise InputError(f"--class-names {path} does not name two outputs or more, each once; {NAMES_HOW}")
    ids = tuple(pair[0] for pair in pairs if len(pair) == 2)
    return OutputNames(tuple(pair[-1] for pair in pairs), ids if len(ids) == len(pairs) else ())


def read_class_map(path: Path) -> ClassMap:
    """Read which output each class of the data is; raise InputError where the file does not say."""
    text = _read(path, "--class-map", MAP_HOW)
    if text.lstrip()[:1] == "{":
        content = _json(text)
    else:
        first = text.partition("\n")[0]
        try:
            rows = list(csv.reader(io.StringIO(text), delimiter=max(",\t;", key=first.count), strict=True))
        except csv.Error as error:
            raise InputError(f"--class-map {path} is no table ({error}); {MAP_HOW}") from error
        content = {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}
        content = content if len(content) == len([row for row in rows if row]) else None
    is_map = isinstance(content, dict) and all(type(value) in (str, int) for value in content.values())
    if not is_map or not content:
        raise InputError(f"--class-map {path} maps no class, or one twice; {MAP_HOW}")
    return content  # type: ignore[no-any-return]


def outputs_of(classes: Sequence[str], outputs: OutputNames, class_map: ClassMap | None) -> dict[str, int]:
    """Return the output of each class of the data; several may have one output.

    Args:
        classes: the data's.
        outputs: the network's.
        class_map: what the user says; None to go by the names. A text of digits is an index unless an output has it
            for its name.

    Raises:
        InputError: a class is not in the map, or its output is none, or not clear, of the network. All are named.
    """
    missing = [name for name in classes if class_map is not None and name not in class_map]
    if missing:
        raise InputError(f"--class-map has no line for {few(missing)}, folders with images; {MAP_HOW}")
    wanted = {name: name if class_map is None else class_map[name] for name in classes}
    found = {name: _output(target, outputs, by_index=class_map is not None) for name, target in wanted.items()}
    wrong = [str(wanted[name]) for name, fitting in found.items() if len(fitting) != 1]
    if wrong:
        raise InputError(
            f"{few(wrong)}: none of the network's {len(outputs.names)} outputs, or more than one, is that "
            f"({few(outputs.names)}); {REMEDY}"
        )
    return {name: fitting[0] for name, fitting in found.items()}


def _output(target: str | int, outputs: OutputNames, *, by_index: bool) -> list[int]:
    found = [] if isinstance(target, int) else outputs.matching(target)
    if not found and by_index and str(target).isdecimal():
        found = [index for index in (int(target),) if index < len(outputs.names)]
    return found


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def _read(path: Path, option: str, how: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{option} {path} cannot be read ({reason(error)}); {how}") from error


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
