"""A door for a user's own code: a callable of an importable module, or of a Python file."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from purify_edge.errors import InputError
from purify_toolkit.networks.doors.opened import Opened, Wanted


def opened(name: str, wanted: Wanted) -> Opened:
    """Call `package.module:callable` or `path/to/file.py:callable`, which builds the network and may fill it.

    Without a file of weights it is called twice: weights that differ were drawn at random.
    """
    module, _, attribute = name.rpartition(":")
    found = _file(Path(module)) if module.endswith(".py") else _module(module, name)
    if not hasattr(found, attribute):
        raise InputError(f"--classifier {name}: {module} has no {attribute!r}; expected a callable of that name in it")
    network = _built(found, attribute, name)
    is_asked = wanted.fill and not wanted.own_weights
    return Opened(network=network, has_weights=not is_asked or _same(network, _built(found, attribute, name)))


def _built(module: ModuleType, attribute: str, name: str) -> nn.Module:
    network = getattr(module, attribute)()
    if not isinstance(network, nn.Module):
        raise InputError(f"--classifier {name} gave a {type(network).__name__}, expected a torch.nn.Module")
    return network


def _same(network: nn.Module, other: nn.Module) -> bool:
    pairs = zip(network.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(one, another) for one, another in pairs)


def _module(module: str, name: str) -> ModuleType:
    _search(Path.cwd())  # as with python -m: the user's module may lie where the command is called
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"--classifier {name}: no module {error.name!r} here or installed; expected PACKAGE.MODULE:CALLABLE, or "
            "FILE.py:CALLABLE"
        ) from error


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"--classifier {path}: no such file; a relative path begins at {Path.cwd()}")
    _search(path.resolve().parent)  # as with python FILE: other modules may lie beside it
    name = f"classifier_of_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _search(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
