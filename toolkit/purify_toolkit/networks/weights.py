"""Weights as people keep them: the one state dict in a file that fits a network, with anything around it.

Training scripts keep the weights in a checkpoint beside other things, and wrappers (DataParallel, torch.compile,
Lightning, averaged models) put names before or between those of the layers. Here no key and no wrapper is known by its
name: what fits the network is looked for. No code of a file is run.
"""

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from purify_edge.errors import InputError, reason

State: TypeAlias = Mapping[str, Tensor]
Value = TypeVar("Value")

NAMED = 3
COUNTER = "num_batches_tracked"  # PyTorch sets it where a state dict, an old one say, has none
HOW = "save it by torch.save(network.state_dict(), FILE)"


def read_weights(network: nn.Module, path: Path) -> None:
    """Fill a network from a safetensors file or a torch checkpoint.

    Raises:
        InputError: the file cannot be read without running its code, or not exactly one state dict in it fits.
    """
    content, wanted = _read(path), network.state_dict()
    states = list(_dicts_of_tensors(content))
    if not states:
        there = f" of {listed(map(repr, content))}" if isinstance(content, dict) else ""
        raise InputError(f"{path} holds no state dict but a {type(content).__name__}{there}; {HOW}")
    found = [(place, state) for place, tensors in states for place, state in _fitting(place, tensors, wanted)]
    if not found:
        raise InputError(f"{path} does not fit the classifier: {_misfit(states, wanted)}")
    others = [place for place, state in found if not _same(state, found[0][1])]
    if others:
        raise InputError(
            f"{path} holds several state dicts that fit the classifier, {listed([found[0][0], *others])}; "
            "keep the one you mean, and save it by torch.save(IT, FILE)"
        )
    network.load_state_dict(dict(found[0][1]))


def listed(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more or "nothing"


def _read(path: Path) -> Any:
    try:
        return load_file(path) if _is_safetensors(path) else torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # torch's reader raises almost anything at a file that is not its own
        code = re.search(r"GLOBAL (\S+)", str(error))
        if "TorchScript" in str(error):
            raise InputError(_with_code(path, "TorchScript", "torch.jit.load({!r}, 'cpu')")) from error
        if code:
            raise InputError(_with_code(path, code[1], "torch.load({!r}, 'cpu', weights_only=False)")) from error
        why = "torch.save did not write it" if isinstance(error, pickle.UnpicklingError) else reason(error)
        raise InputError(f"{path} holds no weights ({why}); expected safetensors or a torch state dict") from error


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors do: with the length of a header in JSON."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _with_code(path: Path, what: str, load: str) -> str:
    """Describe a file that only code can read, and how to save its weights alone."""
    return (
        f"{path} holds more than weights ({what}), and its code is not run here; if you trust it, save them alone:\n"
        f"  import torch\n  found = {load.format(str(path))}\n"
        "  torch.save(found.state_dict(), 'weights.pt')  # where found is a dict: found['state_dict'] or the like"
    )


def _dicts_of_tensors(content: object, place: str = "") -> Iterator[tuple[str, State]]:
    """Yield each dict that holds tensors by name, and where it lies."""
    if not isinstance(content, dict):
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for key, value in content.items():
        yield from _dicts_of_tensors(value, f"{place}[{key!r}]")


def _fitting(place: str, tensors: State, wanted: State) -> Iterator[tuple[str, State]]:
    """Yield what fits of a dict: all of it or, where that does not, what has a prefix, the shortest that do."""
    for _, prefixes in groupby(_prefixes(tensors), key=lambda prefix: prefix.count(".")):
        groups = [(prefix, _below(prefix, tensors)) for prefix in prefixes]
        matches = [(prefix, _match(group, wanted)) for prefix, group in groups]
        fitting = [(place + prefix, match) for prefix, match in matches if match and _fits(match, wanted)]
        if fitting:
            yield from fitting
            return


def _prefixes(names: Iterable[str]) -> list[str]:
    """Return the beginnings of names that end with a dot, and the empty one; shorter ones first.

    >>> _prefixes(["a.b.weight", "a.bias"])
    ['', 'a.', 'a.b.']
    """
    parts = [name.split(".") for name in names]
    found = {"".join(f"{part}." for part in split[:count]) for split in parts for count in range(len(split))}
    return sorted(found, key=lambda prefix: (prefix.count("."), prefix))


def _below(prefix: str, tensors: State) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _match(state: State, wanted: State) -> State | None:
    """Return a state dict by the network's names; None where a name of it is not among them.

    Parts of names that occur on one side only are left out: wrappers add them.
    """
    own = {name: name for name in wanted}
    for names, given in ((own, state), (own, _shortened(state, wanted)), (_shortened(own, state), state)):
        if given and given.keys() <= names.keys():
            return {names[name]: tensor for name, tensor in given.items()}
    return None


def _shortened(values: Mapping[str, Value], others: Iterable[str]) -> Mapping[str, Value]:
    """Leave out the parts of names that no other has; return nothing where two names became one.

    >>> _shortened({"net._orig_mod.bias": 1}, ["net.bias"])
    {'net.bias': 1}
    """
    known = {part for name in others for part in name.split(".")}
    short = {".".join(part for part in name.split(".") if part in known): value for name, value in values.items()}
    return short if len(short) == len(values) else {}


def _fits(state: State, wanted: State) -> bool:
    missing = wanted.keys() - state.keys()
    return all(name.endswith(COUNTER) for name in missing) and not list(_of_other_shape(state, wanted))


def _of_other_shape(state: State, wanted: State) -> Iterator[str]:
    for name in wanted.keys() & state.keys():
        if not is_lazy(wanted[name]) and state[name].shape != wanted[name].shape:
            yield f"{name} {list(state[name].shape)} for {list(wanted[name].shape)}"


def _same(state: State, other: State) -> bool:
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def _misfit(states: list[tuple[str, State]], wanted: State) -> str:
    """Describe what the nearest part of a file lacks, and what it has instead."""
    groups = [_below(prefix, tensors) for _, tensors in states for prefix in _prefixes(tensors)]
    nearest = max(groups, key=lambda group: (len(wanted.keys() & group.keys()), len(group)))
    differences = {
        "missing": [name for name in wanted if name not in nearest],
        "not expected": [name for name in nearest if name not in wanted],
        "of another shape": sorted(_of_other_shape(nearest, wanted)),
    }
    return "; ".join(f"{what} are {listed(names)}" for what, names in differences.items() if names)
