"""The table of doors, and what a `--classifier` means by it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile, is_zipfile

from purify_edge.errors import InputError, PurifyError
from purify_toolkit.data.published_input import PublishedInput
from purify_toolkit.networks.doors import (
    exported_program,
    hugging_face,
    onnx_file,
    python_code,
    timm_models,
    torchscript,
    torchvision_models,
)
from purify_toolkit.networks.doors.opened import Opened, Wanted

HOW = (
    "expected PACKAGE.MODULE:CALLABLE, FILE.py:CALLABLE, torchvision:NAME[:WEIGHTS], timm:NAME, hf:FOLDER_OR_NAME, "
    "or a file: .onnx, .pt2 (torch.export) or .pt (TorchScript)"
)
SUFFIXES = {".onnx": "onnx", ".pt2": "pt2", ".torchscript": "torchscript"}


class Door(NamedTuple):
    """A way in: what opens it, what its library says of the pictures, and what opens it again from a run folder."""

    open: Callable[[str, Wanted], Opened]
    published: Callable[[str], PublishedInput | None]
    kept: str = ""  # the file or folder in the run folder that then stands for the name; empty: the name itself


def _nothing(_: str) -> None:
    return None


DOORS = {
    "python": Door(python_code.opened, _nothing),
    "torchvision": Door(torchvision_models.opened, torchvision_models.published),
    "timm": Door(timm_models.opened, timm_models.published, timm_models.KEPT),
    "hf": Door(hugging_face.opened, hugging_face.published, hugging_face.KEPT),
    "pt2": Door(exported_program.opened, _nothing, exported_program.KEPT),
    "torchscript": Door(torchscript.opened, _nothing, torchscript.KEPT),
    "onnx": Door(onnx_file.opened, onnx_file.published, onnx_file.KEPT),
}
WHOLE = (onnx_file.KEPT, exported_program.KEPT, torchscript.KEPT)
"""Files of a run folder that hold a classifier, weights and all."""


def open_door(factory: str, wanted: Wanted) -> Opened:
    """Build the network that a `--classifier` names.

    Raises:
        InputError: there is no such thing, or it fails.
        MissingError: a library is not installed, or weights cannot be downloaded.
    """
    scheme, name = split(factory)
    try:
        return DOORS[scheme].open(name, wanted)
    except PurifyError:
        raise
    except Exception as error:  # a user's own code, and other people's libraries, may raise anything
        raise InputError(f"--classifier {factory} failed: {type(error).__name__}: {error}") from error


def published_input(factory: str) -> PublishedInput | None:
    """Return how a classifier's pictures are made, where its library or file says so; its weights are not read."""
    scheme, name = split(factory)
    try:
        return DOORS[scheme].published(name)
    except PurifyError:
        raise
    except Exception as error:  # other people's libraries may raise anything
        raise InputError(f"--classifier {factory} failed: {type(error).__name__}: {error}") from error


def kept_in(factory: str, folder: Path) -> str:
    """Return what opens a classifier again from the run folder that keeps its files."""
    if Path(factory).suffix in (".pt", ".pth") and factory.partition(":")[0] not in DOORS:
        for scheme in ("pt2", "torchscript"):
            if (folder / DOORS[scheme].kept).exists():
                return f"{scheme}:{folder / DOORS[scheme].kept}"
    scheme, _ = split(factory, must_exist=False)
    kept = folder / DOORS[scheme].kept
    if not DOORS[scheme].kept or not kept.exists():
        return factory
    return f"{scheme}:{timm_models.LOCAL if scheme == 'timm' else ''}{kept}"


def file_of(factory: str, folder: Path) -> Path | None:
    """Return the file that holds a classifier, or what a run folder keeps of it; None where there is none."""
    places = (factory, kept_in(factory, folder))
    paths = (Path(split(place, must_exist=False)[1]) for place in places)
    return next((path for path in paths if path.is_file()), None)


def split(factory: str, *, must_exist: bool = True) -> tuple[str, str]:
    """Return the door's name in the table, and what it is to open.

    >>> split("torchvision:resnet18:DEFAULT")
    ('torchvision', 'resnet18:DEFAULT')
    >>> split("mine/model.onnx"), split("my.module:build")
    (('onnx', 'mine/model.onnx'), ('python', 'my.module:build'))
    """
    scheme, colon, name = factory.partition(":")
    if scheme in DOORS and scheme != "python" and name:
        return scheme, name
    path = Path(factory)
    if path.suffix in SUFFIXES:
        return SUFFIXES[path.suffix], factory
    if path.suffix in (".pt", ".pth"):
        return (_by_content(path) if must_exist or path.exists() else "torchscript"), factory
    if not scheme or not colon or not name:
        raise InputError(f"--classifier {factory!r}: {HOW}")
    return "python", factory


def _by_content(path: Path) -> str:
    """Tell TorchScript from an exported program, and both from mere weights."""
    if not path.is_file():
        raise InputError(f"--classifier {path}: no such file")
    members = ZipFile(path).namelist() if is_zipfile(path) else []
    if any("/code/" in member for member in members):
        return "torchscript"
    if any(member.endswith("archive_format") for member in members):
        return "pt2"
    raise InputError(f"--classifier {path} is no network but weights: give them by --weights {path}; {HOW}")
