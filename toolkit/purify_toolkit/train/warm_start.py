"""Warm start: a purifier that begins as one trained elsewhere, for other images."""

import torch

from purify_edge.errors import InputError
from purify_toolkit.networks.architectures import Purifier
from purify_toolkit.recipe import PurifierTable
from purify_toolkit.runs.pretrained import open_purifier


@torch.no_grad()
def start_from(purifier: Purifier, table: PurifierTable) -> None:
    """Fill a purifier with the weights of the student that its table's `start` names, fitted to its channels.

    Where that one was trained on colour and this one sees grey, it behaves as if it saw three channels alike and gave
    their mean (before the sigmoid); the other way round it gives three channels of the mean.

    Raises:
        InputError: no such run, or its student is of another size than the table says.
    """
    assert table.start is not None
    run = open_purifier(table.start)
    theirs, own_size = run.recipe.student.network, table.network
    if theirs != own_size:
        wanted = ", ".join(f"{key} = {value}" for key, value in theirs.items())
        raise InputError(
            f'start = "{table.start}" has {wanted}, the recipe asks for another size; take these (--start '
            f"{table.start}), or leave start out (--from-scratch)"
        )
    state, own = run.load_student().state_dict(), purifier.state_dict()
    channels, there = len(own["head.bias"]), len(state["head.bias"])
    if channels != there:
        stem = state["stem.0.weight"].sum(1, keepdim=True) / channels
        state["stem.0.weight"] = stem.expand(-1, channels, -1, -1)
        for name in ("head.weight", "head.bias"):
            mean = state[name].mean(0, keepdim=True)
            state[name] = mean.expand(channels, *mean.shape[1:])
    purifier.load_state_dict(state)
