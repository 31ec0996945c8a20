"""The pre-trained pairs, run folders without their teachers: data of the distribution `purify-edge-pairs`."""

from importlib.util import find_spec
from pathlib import Path

from purify_edge.errors import InputError, MissingError
from purify_toolkit.runs.folder import RunFolder


def pairs_folder() -> Path:
    """Return where the pairs lie: beside the toolkit in a checkout, else where their distribution is installed."""
    checkout = Path(__file__).parents[2] / "pairs" / "purify_pairs"
    found = find_spec("purify_pairs") if not checkout.is_dir() else None
    return Path(found.origin).parent if found and found.origin else checkout


FOLDER = pairs_folder()
DEFAULT = "fashion-mnist"


def pretrained_names() -> list[str]:
    """Return the names of the pairs that are here."""
    return sorted(path.parent.name for path in FOLDER.glob("*/run.json"))


def open_run(path_or_name: str | None) -> RunFolder:
    """Return a run folder by its path, or a pre-trained pair by its name; without either, the default pair."""
    name = path_or_name or DEFAULT
    if path_or_name and Path(name).is_dir():
        return RunFolder(Path(name))
    if name in pretrained_names():
        return RunFolder(FOLDER / name)
    if not FOLDER.is_dir():
        raise MissingError(f"no run {name!r}; for pre-trained pairs needs 'train': pip install 'purify-edge[train]'")
    raise InputError(
        f"no run {name!r}: expected a folder that purify-train wrote, or one of those that ship: "
        f"{', '.join(pretrained_names())}"
    )
