"""What two processes are to do like one: arithmetic, and the training of a stage.

Run by a launcher: launched.py DATA RUN STAGE [RUN STAGE ...]. The main process prints what the arithmetic gave as JSON.
"""

import copy
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch.nn import functional as F

from helpers.silent import Silent
from helpers.small_data import VALIDATION, accept
from purify_toolkit.data import idx
from purify_toolkit.data.datasets import load_data
from purify_toolkit.data.splits import ImageData
from purify_toolkit.device.processes import Processes, find_processes
from purify_toolkit.networks.architectures import Classifier
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.train.stages import Stages
from purify_toolkit.train.trainer import Trainer

ATTACKED_AT_ONCE = 70


def small_images(folder: Path) -> ImageData:
    return load_data("fashion-mnist", folder, validation_size=VALIDATION)


@contextmanager
def float64() -> Iterator[None]:
    """Networks and images in float64: rounding of float32 flips signs of gradients, which attacks go by."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(torch.Tensor, "float", torch.Tensor.double):
            yield
    finally:
        torch.set_default_dtype(before)


def train_stage(run: RunFolder, name: str, data: ImageData, processes: Processes) -> None:
    """Train one stage of a run that has the networks before it."""
    at_once = patch("purify_toolkit.train.examples.batch_size", lambda images, device=None: ATTACKED_AT_ONCE)
    with float64(), at_once:
        stage = Stages(run, data, processes=processes).build(name)
        Trainer(stage, run, count=len(data.train), seed=0, processes=processes, progress=Silent()).train()


def arithmetic(processes: Processes) -> dict[str, object]:
    """A step on 33 images, in float64, by all processes against one network that sees them all."""
    torch.manual_seed(0)
    network = Classifier(1, 10, mean=[0.3], std=[0.35], width=8, blocks=1).double()
    images, labels = torch.rand(33, 1, 28, 28, dtype=torch.float64), torch.randint(0, 10, (33,))
    alone = copy.deepcopy(network)
    images_alone, mine = images.clone().requires_grad_(), images[processes.share].clone().requires_grad_()
    F.cross_entropy(alone(images_alone), labels).backward()
    wrapped = processes.wrap(network, network)
    weight = len(mine) * processes.count / len(images)
    (weight * F.cross_entropy(wrapped(mine), labels[processes.share])).backward()
    assert images_alone.grad is not None
    assert mine.grad is not None
    return {
        "processes": processes.count,
        "mean": processes.mean(torch.tensor([1.0 + processes.index])).tolist(),
        "owner": [int(processes.from_owner(torch.tensor([processes.index + 5]), owner)) for owner in (0, 1)],
        "weights": [relative(a.grad, b.grad) for a, b in zip(network.parameters(), alone.parameters(), strict=True)],
        "images": relative(mine.grad / processes.count, images_alone.grad[processes.share]),
        "buffers": [relative(a, b) for a, b in zip(network.buffers(), alone.buffers(), strict=True)],
        "same_keys": list(network.state_dict()) == list(alone.state_dict()),
        "evaluated": relative(network.eval()(images), alone.eval()(images)),
    }


def relative(found: torch.Tensor | None, expected: torch.Tensor | None) -> float:
    """The largest difference as a share of the largest value."""
    assert found is not None
    assert expected is not None
    return float((found - expected).abs().max() / expected.abs().max())


def main() -> None:
    folder, *runs = sys.argv[1:]
    idx.SHA256["FashionMNIST"] = accept(Path(folder))
    processes, data = find_processes(torch.device("cpu")), small_images(Path(folder))
    found = arithmetic(processes)
    if processes.is_main:
        print(json.dumps(found))
    for path, stage in zip(runs[::2], runs[1::2], strict=True):
        train_stage(RunFolder(Path(path)), stage, data, processes)
    processes.close()


if __name__ == "__main__":
    main()
