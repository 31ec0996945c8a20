"""PyTorch as a contestant of `purify-bench`: a run's own networks, as they are and compiled."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from purify_toolkit.runs.pretrained import open_run

Call = Callable[[NDArray[np.uint8]], object]


def contestants(run: str) -> dict[str, Call]:
    """PyTorch eager and torch.compile, from uint8 images `[N, H, W, C]` to labels `[N]`.

    Args:
        run: a folder that `purify-train` wrote, or the name of a pair that ships.

    Raises:
        InputError: there is no such run.
    """
    folder = open_run(run)
    defended = nn.Sequential(folder.load_student(), folder.load_classifier()).eval()
    return calls_of(defended)


def calls_of(defended: nn.Module) -> dict[str, Call]:
    """Return the same for a network of one's own."""
    return {"PyTorch": _call(defended), "torch.compile": _call(torch.compile(defended, dynamic=False))}


def _call(network: Callable[[torch.Tensor], torch.Tensor]) -> Call:
    def run(images: NDArray[np.uint8]) -> NDArray[np.int64]:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float().div_(255)
        with torch.inference_mode():
            labels: NDArray[np.int64] = network(x).argmax(dim=1).numpy()
        return labels

    return run
