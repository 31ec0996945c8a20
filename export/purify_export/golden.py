"""The golden set: a run's test images, clean, attacked and noisy, and what its PyTorch networks make of them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from purify_edge.bundle.golden import GoldenSplit
from purify_toolkit.data.pixels import batch_size, to_8bit, to_float
from purify_toolkit.evaluate import attack, attack_name
from purify_toolkit.recipe import EvaluationTable
from purify_toolkit.runs.folder import Samples

IMAGES = 256


def golden_from_run(
    classifier: nn.Module, purifier: nn.Module, samples: Samples, table: EvaluationTable, *, seed: int
) -> tuple[dict[str, GoldenSplit], str]:
    """The splits `clean`, `adversarial` and `noise`, of the same images, and the attack's description.

    The attacker knows the classifier alone (grey-box); the noise is uniform and of the attack's size. Both are rounded
    to 8 bits within the ball: the golden set holds what a file or a camera can carry, and the reference sees just that.

    Args:
        classifier, purifier: float32, in evaluation mode, on the CPU.
        samples: at least one image; the first 256 are taken.
        table: of the attack.
        seed: of its random start, and of the noise.
    """
    images, labels = samples.images[:IMAGES], samples.labels[:IMAGES]
    adversarial = attacked(classifier, images, labels, table, seed=seed)
    splits = {
        "clean": reference(classifier, purifier, images, labels),
        "adversarial": reference(classifier, purifier, adversarial, labels),
        "noise": reference(classifier, purifier, noisy(images, epsilon=table.epsilon, seed=seed), labels),
    }
    return splits, f"{attack_name(table)}, against the classifier alone, rounded to 8 bits"


def attacked(classifier: nn.Module, images_u8: Tensor, labels: Tensor, table: EvaluationTable, *, seed: int) -> Tensor:
    """8-bit images `[N, C, H, W]` after an attack on the classifier alone, rounded to 8 bits within the ball."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        attack(classifier, to_float(part), classes, table, generator) for part, classes in _parts(images_u8, labels)
    ]
    return to_8bit(torch.cat(parts), clean=images_u8, epsilon=table.epsilon)


def noisy(images_u8: Tensor, *, epsilon: float, seed: int) -> Tensor:
    """8-bit images `[N, C, H, W]` with noise, uniform in [-epsilon, epsilon], rounded to 8 bits within the ball."""
    images, generator = images_u8.float() / 255, torch.Generator().manual_seed(seed)
    noise = (2 * torch.rand(images.shape, generator=generator) - 1) * epsilon
    return to_8bit((images + noise).clamp(0, 1), clean=images_u8, epsilon=epsilon)


@torch.no_grad()
def reference(classifier: nn.Module, purifier: nn.Module, images_u8: Tensor, labels: Tensor) -> GoldenSplit:
    """What PyTorch makes of 8-bit images `[N, C, H, W]`."""
    purified, plain, defended = [], [], []
    for part, _ in _parts(images_u8, labels):
        images = to_float(part)
        purified.append(purifier(images))
        plain.append(classifier(images))
        defended.append(classifier(purified[-1]))
    return GoldenSplit(
        images=np.ascontiguousarray(images_u8.permute(0, 2, 3, 1).numpy()),
        labels=labels.numpy(),
        purified=np.ascontiguousarray(torch.cat(purified).numpy()),
        classifier=torch.cat(plain).numpy(),
        defended=torch.cat(defended).numpy(),
    )


def _parts(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    size = batch_size(images)
    return zip(images.split(size), labels.split(size), strict=True)
