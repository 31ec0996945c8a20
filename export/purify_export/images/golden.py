"""The golden set: images, clean, attacked and noisy, and what the PyTorch networks make of them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from purify_edge.bundle.golden import GoldenSplit
from purify_edge.errors import InputError
from purify_export.convert.amounts import GOLDEN
from purify_export.networks import Networks
from purify_export.progress import Tell, counted, silent
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.pixels import batch_size, to_8bit, to_float
from purify_toolkit.data.splits import Split
from purify_toolkit.networks.answers import Model
from purify_toolkit.recipe import EvaluationTable


def golden_set(
    networks: Networks, images: Split, table: EvaluationTable, *, seed: int, note: Tell = silent
) -> tuple[dict[str, GoldenSplit], str]:
    """Return the splits `clean`, `adversarial` and `noise`, of the same images, and the attack's description.

    The attacker knows the classifier alone (grey-box); the noise is uniform and of the attack's size. Both are rounded
    to 8 bits within the ball: the golden set holds what a file or a camera can carry, and the reference sees just that.
    Of the images the first are taken, 256 or fewer where they are large; see `amounts`.

    Raises:
        InputError: the classifier gives logits that are not finite for one of them.
    """
    few = images[: GOLDEN.of(images.images.shape[1:])]
    clean, labels = few.images, few.labels
    versions = {
        "clean": clean,
        "adversarial": attacked(networks.classifier, clean, labels, PGD.of(table), seed=seed, note=note),
        "noise": noisy(clean, epsilon=table.epsilon, seed=seed),
    }
    splits = {name: reference(networks, version, labels, note=note) for name, version in versions.items()}
    for name, split in splits.items():
        answered = np.isfinite(split.classifier).all(axis=1) & np.isfinite(split.defended).all(axis=1)
        if not answered.all():
            raise InputError(
                f"the logits are not finite for {np.count_nonzero(~answered)} of {len(split)} golden images ({name}), "
                f"such as image {int(np.argmin(answered))}; leave such images out, or have the classifier never divide "
                "by 0 (an image of one colour has a standard deviation of 0)"
            )
    return splits, f"{PGD.of(table)}, against the classifier alone, rounded to 8 bits"


def attacked(model: Model, images_u8: Tensor, labels: Tensor, attack: PGD, *, seed: int, note: Tell = silent) -> Tensor:
    """Return 8-bit images `[N, C, H, W]` after an attack on the model, rounded to 8 bits within the ball."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        attack(model, to_float(part), classes, generator=generator)
        for part, classes in _parts(images_u8, labels, "attack", note)
    ]
    return to_8bit(torch.cat(parts), clean=images_u8, epsilon=attack.epsilon)


def noisy(images_u8: Tensor, *, epsilon: float, seed: int) -> Tensor:
    """Return 8-bit images `[N, C, H, W]` with noise, uniform in [-epsilon, epsilon], rounded to 8 bits in the ball."""
    images, generator = images_u8.float() / 255, torch.Generator().manual_seed(seed)
    noise = (2 * torch.rand(images.shape, generator=generator) - 1) * epsilon
    return to_8bit((images + noise).clamp(0, 1), clean=images_u8, epsilon=epsilon)


@torch.no_grad()
def reference(networks: Networks, images_u8: Tensor, labels: Tensor, *, note: Tell = silent) -> GoldenSplit:
    """Return 8-bit images `[N, C, H, W]` and what PyTorch makes of them."""
    purified, plain, defended = [], [], []
    for part, _ in _parts(images_u8, labels, "PyTorch's answers", note):
        images = to_float(part)
        purified.append(networks.purifier(images))
        plain.append(networks.classifier(images))
        defended.append(networks.classifier(purified[-1]))
    return GoldenSplit(
        images=np.ascontiguousarray(images_u8.permute(0, 2, 3, 1).numpy()),
        labels=labels.numpy(),
        purified=np.ascontiguousarray(torch.cat(purified).numpy()),
        classifier=torch.cat(plain).numpy(),
        defended=torch.cat(defended).numpy(),
    )


def _parts(images: Tensor, labels: Tensor, what: str, note: Tell) -> Iterator[tuple[Tensor, Tensor]]:
    size = batch_size(images)
    parts = images.split(size)
    return counted(zip(parts, labels.split(size), strict=True), len(parts), f"{what}, batch", note)
