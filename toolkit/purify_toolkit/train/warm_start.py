"""Warm start: a purifier that begins as one trained elsewhere, for other images."""

import torch

from purify_edge.errors import InputError
from purify_toolkit.networks.architectures import Purifier
from purify_toolkit.recipe import PurifierTable
from purify_toolkit.runs.pretrained import open_run


@torch.no_grad()
def start_from(purifier: Purifier, table: PurifierTable) -> None:
    """Fill a purifier with the weights of the student that its table's `start` names, fitted to its channels.

    Where that one was trained on colour and this one sees grey, it behaves as if it saw three channels alike and gave
    their mean (before the sigmoid); the other way round it gives three channels of the mean.

    Raises:
        InputError: no such run, or its student is of another size than the table says.
    """
    assert table.start is not None
    run = open_run(table.start)
    theirs, own_size = run.recipe.student.network, table.network
    if theirs != own_size:
        wanted = ", ".join(f"{key} = {value}" for key, value in theirs.items())
        raise InputError(
            f'start = "{table.start}" has {wanted}, the recipe asks for another size; take these, or leave start out '
            "(--from-scratch)"
        )
    state, own = run.load_student().state_dict(), purifier.state_dict()
    places = table.fold**2  # of a pixel in the square that the stem folds into channels, innermost
    channels, there = len(own["head.bias"]) // places, len(state["head.bias"]) // places
    if channels != there:
        stem = state["stem.0.weight"].unflatten(1, (there, places)).sum(1, keepdim=True) / channels
        state["stem.0.weight"] = stem.expand(-1, channels, -1, -1, -1).flatten(1, 2)
        for name in ("head.weight", "head.bias"):
            mean = state[name].unflatten(0, (there, places)).mean(0, keepdim=True)
            state[name] = mean.expand(channels, *mean.shape[1:]).flatten(0, 1)
    purifier.load_state_dict(state)
