"""What is trained already: the pairs, run folders without their teachers, and purifiers for a training to begin from.

Both are data of the distribution `purify-edge-pairs`. A purifier is a run folder without its classifier.
"""

from importlib.util import find_spec
from pathlib import Path

from purify_edge.errors import InputError, MissingError
from purify_toolkit.recipe import nearest
from purify_toolkit.runs.folder import RunFolder


def pairs_folder() -> Path:
    """Return where the pairs lie: beside the toolkit in a checkout, else where their distribution is installed."""
    checkout = Path(__file__).parents[2] / "pairs" / "purify_pairs"
    found = find_spec("purify_pairs") if not checkout.is_dir() else None
    return Path(found.origin).parent if found and found.origin else checkout


FOLDER = pairs_folder()
DEFAULT = "fashion-mnist"
LICENCE = "Apache-2.0"
"""Of the weights that are trained already, by SPDX's name."""


def pretrained_names() -> list[str]:
    """Return the names of the pairs that are here."""
    return [name for name in _names() if RunFolder(FOLDER / name).has("classifier")]


def open_run(path_or_name: str | None) -> RunFolder:
    """Return a run folder by its path, or a pre-trained pair by its name; without either, the default pair."""
    if path_or_name and Path(path_or_name).is_dir():
        return RunFolder(Path(path_or_name))
    run = open_purifier(path_or_name or DEFAULT)
    if not run.has("classifier"):
        raise InputError(
            f"{run.path.name} is a purifier without a classifier; `purify-train image-folder --as-is --classifier ... "
            f"--data ...` puts it before yours. Pairs that ship: {', '.join(pretrained_names())}"
        )
    return run


def open_purifier(path_or_name: str) -> RunFolder:
    """Return a pre-trained purifier or pair by its name, before files in the working folder, or a run by its path."""
    if path_or_name in _names():
        return RunFolder(FOLDER / path_or_name)
    if Path(path_or_name).is_dir():
        return RunFolder(Path(path_or_name))
    if not FOLDER.is_dir():
        raise MissingError(
            f"no run {path_or_name!r}; for pre-trained pairs needs 'train': pip install 'purify-edge[train]'"
        )
    raise InputError(
        f"no run {path_or_name!r}{nearest(path_or_name, _names())}: expected a folder that purify-train wrote, or one "
        f"of those that ship: {', '.join(_names())}"
    )


def licence_of(run: RunFolder) -> str:
    """Return the licence of a run's weights where it is one of those here; else nothing, for only its owner knows."""
    return LICENCE if run.path.resolve().parent == FOLDER.resolve() else ""


def _names() -> list[str]:
    return sorted(path.parent.name for path in FOLDER.glob("*/run.json"))
