"""Judging: the test images attacked once against the classifier alone, and which of them a purifier saves."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from purify_edge.files import atomic
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.pixels import to_8bit
from purify_toolkit.data.splits import Split, batches
from purify_toolkit.evaluate.stats import Correct
from purify_toolkit.networks.answers import right

THREATS = ("clean", "grey-box")


def shown(test: Split, classifier: nn.Module, attack: PGD, path: Path, device: torch.device) -> Mapping[str, Split]:
    """Return the test images under each of `THREATS`; the attacked ones, 8 bits, are made once and kept at `path`."""
    if not path.is_file():
        generator = torch.Generator(device).manual_seed(0)
        made = [
            attack(classifier, images, labels, generator=generator).cpu() for images, labels in batches(test, device)
        ]
        examples = to_8bit(torch.cat(made), clean=test.images, epsilon=attack.epsilon)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.save(file, examples.numpy())
    return {"clean": test, "grey-box": Split(torch.from_numpy(np.load(path)), test.labels)}


def judged(model: nn.Module, seen: Mapping[str, Split], device: torch.device) -> dict[str, Correct]:
    """Return which images a model has right under each threat, `[N]` each."""
    return {
        threat: np.concatenate([right(model, images, labels) for images, labels in batches(split, device)])
        for threat, split in seen.items()
    }
