"""PyTorch as a contestant of `purify-bench`: a run's own networks, as they are and compiled."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lab.speed.rounds import Call, Images
from purify_toolkit.runs.pretrained import open_run


def contestants(run: str) -> dict[str, Call]:
    """Return PyTorch eager and torch.compile on a run's networks, or on those of a pair that ships."""
    folder = open_run(run)
    return calls_of(nn.Sequential(folder.load_student(), folder.load_classifier()).eval())


def calls_of(defended: nn.Module) -> dict[str, Call]:
    """Return the two for a network, from uint8 images `[N, H, W, C]` to labels `[N]`."""
    return {"PyTorch": _call(defended), "torch.compile": _call(torch.compile(defended, dynamic=False))}


def _call(network: Callable[[torch.Tensor], torch.Tensor]) -> Call:
    def run(images: Images) -> NDArray[np.int64]:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float().div_(255)
        with torch.inference_mode():
            labels: NDArray[np.int64] = network(x).argmax(dim=1).numpy()
        return labels

    return run
