"""How a user's images are laid out: which files belong to which part and class of a dataset."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from purify_edge.errors import InputError
from purify_edge.images.decoding import IMAGE_SUFFIXES
from purify_edge.images.walking import PassedOver
from purify_toolkit.data.folders.trees import LAYOUT, PARTS, UNSPLIT, Tree

SPLIT_SEED = 0
TRAIN_SHARE, VALIDATION_SHARE = 0.6, 0.2
"""Of images without splits, in each class; the rest is the test part."""
NO_CLASS = ""
"""The only class of images that are read without labels."""

Files: TypeAlias = dict[str, list[str]]
"""The paths of images by their class."""


@dataclass
class PartFiles:
    """What is to be read of a folder or zip, and how it was found out."""

    parts: dict[str, Files]  # train, test and perhaps validation
    layout: str  # as text
    own_validation: bool = False  # whether the validation part is one of the user's
    passed: PassedOver = field(default_factory=PassedOver)


def find_listing(tree: Tree, *, unlabelled: bool = False) -> PartFiles:
    """Find the images of a folder or zip: SPLIT/CLASS/FILE, else CLASS/FILE; of any depth where there are no labels.

    Raises:
        InputError: there are no folders of classes; a class without images; no part to test on.
    """
    passed, tops = PassedOver(), tree.folders("")
    places = {part: place for part in PARTS if (place := _place_of(part, tops)) is not None}
    if "train" in places and (len(places) > 1 or (not unlabelled and tree.folders(places["train"]))):
        parts = {part: _files(tree, place, passed, unlabelled) for part, place in places.items()}
        return of_parts(parts, places, str(tree), passed, form="SPLIT" if unlabelled else "SPLIT/CLASS")
    if not unlabelled and not tops:
        raise InputError(f"{tree} holds neither a folder 'train' nor a zip; {LAYOUT}; {UNSPLIT}")
    files = _files(tree, "", passed, unlabelled)
    return made_parts(files, str(tree), passed, form="images without labels" if unlabelled else "CLASS/FILE")


def of_parts(
    parts: dict[str, Files], places: Mapping[str, str], source: str, passed: PassedOver, *, form: str
) -> PartFiles:
    """Return the listing of images that come in parts; without a test part, the validation part is it.

    Raises:
        InputError: there is neither, or nothing to train on.
    """
    missing = next((part for part in ("train", "test") if part not in parts), None)
    said = ", ".join(f"{part} in {places[part]!r}" for part in parts)
    if missing == "test" and "validation" in parts:
        parts = {"train": parts["train"], "test": parts["validation"]}
        said += "; there is no test part: the validation part is it, and validation images are taken from train"
    elif missing:
        raise InputError(f"the split {missing!r}: {source} has none; {LAYOUT}; {UNSPLIT}")
    return PartFiles(parts, f"{form} ({said})", "validation" in parts, passed)


def made_parts(files: Files, source: str, passed: PassedOver, *, form: str) -> PartFiles:
    """Return the listing of images without splits: in each class three fifths to train on, a fifth each for the rest.

    Which, is chosen at random, always the same.

    Raises:
        InputError: so few images that a part would be empty.
    """
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    parts: dict[str, Files] = {"train": {}, "validation": {}, "test": {}}
    for name in sorted(files):
        for place, index in enumerate(torch.randperm(len(files[name]), generator=generator).tolist()):
            share = (place + 0.5) / len(files[name])  # so that a class of one image has it in train
            part = "train" if share < TRAIN_SHARE else "test" if share >= TRAIN_SHARE + VALIDATION_SHARE else None
            parts[part or "validation"].setdefault(name, []).append(files[name][index])
    empty = next((part for part, found in parts.items() if not found), None)
    if empty:
        count = sum(map(len, files.values()))
        raise InputError(
            f"{source} has {count} images, too few to make splits of: the {empty} part would be empty; {LAYOUT}"
        )
    split = "60% to train on, 20% for validation, 20% to test, in each class" if len(files) > 1 else "60%, 20%, 20%"
    return PartFiles(parts, f"{form}, without splits: made at random, {split}", passed=passed)


def _place_of(part: str, tops: list[str]) -> str | None:
    """Return the top folder that is a part of the dataset; one that is spelt as we do counts most."""
    for name in PARTS[part]:
        found = sorted((top for top in tops if top.casefold() == name), key=lambda top: (top != name, top))
        if found:
            return found[0]
    return None


def _files(tree: Tree, place: str, passed: PassedOver, unlabelled: bool) -> Files:
    """Return the images below a folder by class, in the order of their folders and names."""
    prefix, where = (f"{place}/", f"the split {place!r}") if place else ("", str(tree))
    found: Files = {NO_CLASS: []} if unlabelled else {composed(folder): [] for folder in tree.folders(place)}
    for path in sorted(tree.images(place, passed), key=lambda path: path.rpartition("/")[::2]):
        folder, slash, _ = path.removeprefix(prefix).partition("/")
        if unlabelled:
            found[NO_CLASS].append(path)
        elif slash:
            found.setdefault(composed(folder), []).append(path)
        else:
            passed.others["in no class's folder"] += 1
    empty = sorted(folder for folder, images in found.items() if not images)
    if empty or not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        which = f" of the class {empty[0]!r}" if empty and not unlabelled else ""
        problem = f"no image ({suffixes}){which}" if empty else "no class"
        raise InputError(f"{where}: there is {problem}; {LAYOUT}; {UNSPLIT}")
    return found


def composed(name: str) -> str:
    """Return a name with each accent in the letter's own character: some systems keep them apart, in files and zips."""
    return unicodedata.normalize("NFC", name)
