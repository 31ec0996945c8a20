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
    theirs = run.recipe.student
    sizes = {key: (getattr(theirs, key), getattr(table, key)) for key in ("width", "depth", "blocks")}
    if any(there != here for there, here in sizes.values()):
        wanted = ", ".join(f"{key} = {there}" for key, (there, _) in sizes.items())
        raise InputError(
            f'start = "{table.start}" has {wanted}, the recipe asks for another size; take these, or leave start out '
            "(--from-scratch)"
        )
    state, own = run.load_student().state_dict(), purifier.state_dict()
    channels, there = len(own["head.bias"]), len(state["head.bias"])
    if channels != there:
        stem, head, bias = state["stem.0.weight"], state["head.weight"], state["head.bias"]
        shape = own["stem.0.weight"].shape
        state["stem.0.weight"] = (stem.sum(1, keepdim=True) / channels).expand(shape)
        state["head.weight"] = head.mean(0, keepdim=True).expand(own["head.weight"].shape)
        state["head.bias"] = bias.mean().expand(channels)
    purifier.load_state_dict(state)
