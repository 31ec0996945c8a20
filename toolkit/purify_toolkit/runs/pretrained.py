"""The pre-trained pairs that ship with the package: run folders without their teachers."""

from pathlib import Path

from purify_edge.errors import InputError
from purify_toolkit.runs.folder import RunFolder

FOLDER = Path(__file__).parents[1] / "pretrained"
DEFAULT = "fashion-mnist"


def pretrained_names() -> list[str]:
    """What ships."""
    return sorted(path.parent.name for path in FOLDER.glob("*/run.json"))


def open_run(path_or_name: str | None) -> RunFolder:
    """A run folder by its path, or a shipped one by its name; without either, the default one.

    Raises:
        InputError: neither a folder nor a name that ships.
    """
    if path_or_name is None:
        return RunFolder(FOLDER / DEFAULT)
    name = path_or_name
    if Path(name).is_dir():
        return RunFolder(Path(name))
    if name in pretrained_names():
        return RunFolder(FOLDER / name)
    raise InputError(
        f"no run {name!r}: expected a folder that purify-train wrote, or one of those that ship: "
        f"{', '.join(pretrained_names())}"
    )
