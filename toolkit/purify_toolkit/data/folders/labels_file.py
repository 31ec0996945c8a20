"""Labels that come beside the images, as a table: a line for each file."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from purify_edge.errors import InputError, reason
from purify_edge.images.walking import PassedOver
from purify_toolkit.data.folders.layout import Files, PartFiles, composed, made_parts, of_parts
from purify_toolkit.data.folders.trees import Tree, part_of

COLUMNS = {
    "file": ("file", "filename", "file_name", "path", "filepath", "image", "image_id", "image_path", "id"),
    "label": ("label", "class", "class_name", "target", "category"),
    "split": ("split", "subset", "set"),
}
"""What a column may be called, in any case."""
HOW = "expected file,label or file,label,split, with or without a line of names above"


@dataclass(frozen=True)
class _Line:
    number: int
    file: str
    label: str
    split: str


def listing_of(path: Path, tree: Tree) -> PartFiles:
    """Find the images that a table names, by their paths in a folder or zip; a suffix may be missing there.

    Parts are those of its column `split`, else of the folders that the files lie in, else they are made.

    Raises:
        InputError: the table cannot be read, or has no such columns; files that are not there, twice, or without a
            label. All of them are named.
    """
    passed = PassedOver()
    images = tree.images("", passed)
    places = {composed(image): image for image in images}
    stems = Counter(_stem(image) for image in images)
    places |= {stem: image for image in images if stems[stem := _stem(image)] == 1 and stem not in places}
    lines = list(_lines(path, places))
    found = [places.get(line.file, "") for line in lines]
    _check(path, tree, lines, found)
    others = len(images) - len(found)
    if others:
        passed.others[f"without a line in {path.name}"] += others
    splits = _splits(path, lines, found)
    if not splits:
        return made_parts(_by_label(lines, found), str(tree), passed, form=f"labels of {path.name}")
    parts: dict[str, Files] = {}
    for name in ("train", "validation", "test"):
        chosen = [index for index, split in enumerate(splits) if part_of(split) == name]
        if chosen:
            parts[name] = _by_label([lines[index] for index in chosen], [found[index] for index in chosen])
    named = {part_of(split) or "": split for split in sorted(set(splits), reverse=True)}
    return of_parts(parts, named, str(path), passed, form=f"labels and splits of {path.name}")


def _stem(image: str) -> str:
    return composed(str(PurePosixPath(image).with_suffix("")))


def _lines(path: Path, places: Iterable[str]) -> Iterator[_Line]:
    """Yield the table's lines; the first is one of names, unless it names a file that is there."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--labels {path} cannot be read ({reason(error)}); {HOW}") from error
    first = text.partition("\n")[0]
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=max(",\t;", key=first.count), strict=True))
    except csv.Error as error:
        raise InputError(f"--labels {path} is no table ({error}); {HOW}") from error
    rows = [[composed(cell.strip()) for cell in row] for row in rows]
    if not rows or len(rows[0]) < 2:
        raise InputError(f"--labels {path}: no columns; {HOW}")
    columns = dict(zip(COLUMNS, range(min(3, len(rows[0]))), strict=False))
    start = 0
    if _plain(rows[0][0]) not in places:
        columns, start = _columns(path, rows[0]), 1
    for number, row in enumerate(rows[start:], start + 1):
        if any(row):
            cells = {name: row[column] if column < len(row) else "" for name, column in columns.items()}
            yield _Line(number, _plain(cells["file"]), cells["label"], cells.get("split", ""))


def _plain(file: str) -> str:
    return str(PurePosixPath(file.replace("\\", "/"))) if file else ""


def _columns(path: Path, names: Sequence[str]) -> dict[str, int]:
    """Return where the columns are by their names."""
    lower = [name.casefold() for name in names]
    found = {
        column: next(lower.index(name) for name in known if name in lower)
        for column, known in COLUMNS.items()
        if not set(known).isdisjoint(lower)
    }
    missing = [column for column in ("file", "label") if column not in found]
    if missing:
        ways = "; ".join(f"a column for the {column} is called {', '.join(COLUMNS[column])}" for column in missing)
        raise InputError(f"--labels {path}: its columns are {', '.join(names)}; {ways}; or its first file is not there")
    return found


def _check(path: Path, tree: Tree, lines: Sequence[_Line], found: Sequence[str]) -> None:
    """Raise InputError that names all that is wrong with the lines."""
    counts = Counter(image for image in found if image)
    problems = {
        f"not there, in {tree}": [line.file for line, image in zip(lines, found, strict=True) if not image],
        "in more than one line": [image for image, count in counts.items() if count > 1],
        "without a label": [f"{line.file} (line {line.number})" for line in lines if not line.label],
    }
    said = [f"{what}: {few(names)}" for what, names in problems.items() if names]
    if said or not lines:
        raise InputError(f"--labels {path}: {'; '.join(said) or 'no lines'}; mend the table, {HOW}")


def _splits(path: Path, lines: Sequence[_Line], found: Sequence[str]) -> list[str]:
    """Return the name of each file's part; none where the table and the folders say nothing of parts."""
    splits = [line.split for line in lines]
    if any(splits):
        unknown = sorted({split for split in splits if not part_of(split)})
        if unknown:
            raise InputError(f"--labels {path}: splits {few(unknown)}; expected train, validation or test in each line")
        return splits
    tops = [image.partition("/")[0] for image in found]
    return tops if all(map(part_of, tops)) and any(part_of(top) != "train" for top in tops) else []


def _by_label(lines: Sequence[_Line], found: Sequence[str]) -> Files:
    files: Files = {}
    for line, image in sorted(zip(lines, found, strict=True), key=lambda pair: pair[1]):
        files.setdefault(line.label, []).append(image)
    return files


def few(names: Iterable[str]) -> str:
    """Return the first names, quoted, and how many more there are."""
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:5]) + (f" and {len(quoted) - 5} more" if len(quoted) > 5 else "") or "none"
