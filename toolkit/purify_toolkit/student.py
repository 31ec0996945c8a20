"""What the student learns from: its examples, its teachers' images and, in an adaptive recipe, the labels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from purify_toolkit.adversarial import AdversarialPool
from purify_toolkit.attacks.gradient import pgd
from purify_toolkit.attacks.norms import LINF
from purify_toolkit.data import Split
from purify_toolkit.features import Features
from purify_toolkit.losses import (
    ensemble,
    feature_loss,
    guidance_loss,
    imitation_loss,
    reconstruction_loss,
    structure_loss,
)
from purify_toolkit.pixels import to_float
from purify_toolkit.recipe import Recipe
from purify_toolkit.remembered import Remembered

Losses = dict[str, Tensor]
"""Named scalar losses; their sum is minimised."""


@dataclass(frozen=True)
class Batch:
    """What a stage's losses may look at.

    Attributes:
        indices: `[B]`, into the training images; of the whole batch, however many processes share it.
        generator: of the epoch, on the CPU.
        attack_generator: likewise, on the device. Both are drawn from for the whole batch.
        share: of the batch, what falls to this process; a loss is the mean over it.
    """

    indices: Tensor
    generator: torch.Generator
    attack_generator: torch.Generator
    share: slice = field(default_factory=lambda: slice(None))

    @property
    def mine(self) -> Tensor:
        """The indices of this process's images."""
        return self.indices[self.share]

    def first(self, fraction: float) -> tuple[int, int]:
        """How many images the first part of the batch holds, and how many of these are this process's."""
        count = round(fraction * len(self.indices))
        return count, len(range(count)[self.share])


@dataclass(frozen=True)
class StudentLosses:
    """The student's losses on a batch, see `losses` for the formulas.

    By default its adversarial examples are those of the pool, made against the classifier alone. An adaptive recipe
    makes them anew at each step through student and classifier, as AdvAE does (Li et al. 2019, arXiv 1905.10729), from
    images that are mirrored and shifted by chance, and adds the cross-entropy of the labels.
    """

    student: nn.Module
    classifier: nn.Module
    teachers: Mapping[str, nn.Module]
    pool: AdversarialPool | None
    train: Split
    recipe: Recipe
    device: torch.device

    def __call__(self, batch: Batch) -> Losses:
        """Each weighted term by its name."""
        split, weights, adaptive = self.train[batch.mine], self.recipe.distillation, self.recipe.adaptive
        labels = split.labels.to(self.device)
        clean = to_float(augment(split.images, batch) if adaptive else split.images, self.device)
        seen, attacked = self._seen(batch, clean, labels)
        output = self.student(seen)
        found = {}
        if self.teachers:
            shown = self._shown(seen, clean, batch.mine, attacked)
            found["imitation"] = weights.imitation * imitation_loss(output, shown)
        found["reconstruction"] = weights.reconstruction * reconstruction_loss(output, clean)
        if weights.structure:
            found["structure"] = weights.structure * structure_loss(output, clean)
        if weights.feature_guidance:
            features, logits = self._features.with_logits(output)
            target = self._made_by("features", clean, batch.mine)
            found["features"] = weights.feature_guidance * feature_loss(features, target)
        else:
            logits = self.classifier(output)
        if weights.classifier_guidance:
            target = self._made_by("classifier", clean, batch.mine)
            found["guidance"] = weights.classifier_guidance * guidance_loss(logits, target)
        if adaptive:
            found["labels"] = adaptive.labels * F.cross_entropy(logits, labels)
        return found

    def _seen(self, batch: Batch, clean: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """The images, and how many at their beginning are attacked: a random choice, as the batch's order is random."""
        of_all, count = batch.first(self.recipe.distillation.adversarial_fraction)
        if self.pool is None:
            attacked = self._white_box(clean[:count], labels[:count], batch, of_all)
        else:
            attacked = to_float(self.pool.examples[batch.mine[:count]], self.device)
        return torch.cat([attacked, clean[count:]]).contiguous(memory_format=torch.channels_last), count

    def _white_box(self, images: Tensor, labels: Tensor, batch: Batch, of_all: int) -> Tensor:
        """The attacked images of this process; the random starts are drawn for those of all."""
        adaptive = self.recipe.adaptive
        assert adaptive is not None
        all_images = images.new_empty(1).expand(of_all, *images.shape[1:])  # of which only the shape counts
        start = LINF.start(all_images, adaptive.epsilon, batch.attack_generator)[batch.share]
        return pgd(
            nn.Sequential(self.student, self.classifier),
            images,
            labels,
            epsilon=adaptive.epsilon,
            steps=adaptive.steps,
            relative_step=adaptive.relative_step,
            decay=adaptive.decay,
            generator=batch.attack_generator,
            start=start,
        )

    def _shown(self, seen: Tensor, clean: Tensor, indices: Tensor, attacked: int) -> Tensor:
        """What the adversarial teacher makes of what the student sees, and the normal one of the original."""
        images: dict[str, Tensor] = {}
        if "adversarial_teacher" in self.teachers:
            parts = {True: slice(attacked), False: slice(attacked, None)}
            images["adversarial_teacher"] = torch.cat(
                [
                    self._made_by("adversarial_teacher", seen[part], indices[part], attacked=is_attacked)
                    for is_attacked, part in parts.items()
                    if len(indices[part])
                ]
            )
        if "normal_teacher" in self.teachers:
            images["normal_teacher"] = self._made_by("normal_teacher", clean, indices)
        if len(images) == 1:
            return next(iter(images.values()))
        return ensemble(**images, adversarial_weight=self.recipe.distillation.adversarial_teacher_weight)

    @torch.no_grad()
    def _made_by(self, name: str, images: Tensor, indices: Tensor, *, attacked: bool = False) -> Tensor:
        """What a frozen network makes of training images, attacked or not; remembered where they come again."""
        if self.pool is None:  # adaptive: augmented and attacked anew each time
            made: Tensor = self._frozen[name](images)
            return made
        return self._remembered[name, attacked](images, indices, self.pool.versions if attacked else None)

    @cached_property
    def _features(self) -> Features:
        return Features(self.classifier)

    @property
    def _frozen(self) -> dict[str, nn.Module]:
        features = {"features": self._features} if self.recipe.distillation.feature_guidance else {}
        return {"classifier": self.classifier, **features, **self.teachers}

    @cached_property
    def _remembered(self) -> dict[tuple[str, bool], Remembered]:
        """By network, and whether the images are attacked."""
        count = len(self.train)
        return {
            (name, of): Remembered(network, count) for name, network in self._frozen.items() for of in (False, True)
        }


def augment(images_u8: Tensor, batch: Batch, *, shift: int = 2, cutout: int = 0) -> Tensor:
    """Each image mirrored by chance and shifted, a square of it black; uint8 as they came.

    Args:
        images_u8: `[N, C, H, W]`.
        batch: whose share they are, as `Batch.mine` has it.
        shift: the most by which an image is shifted along each axis, in pixels; the gap is black.
        cutout: side of the square, somewhere within the image, in pixels (DeVries and Taylor 2017, arXiv 1708.04552).
    """
    (count, _, height, width), of_all, generator = images_u8.shape, len(batch.indices), batch.generator
    mirrored = (torch.rand(of_all, generator=generator) < 0.5)[batch.share]
    images = torch.where(mirrored[:, None, None, None], images_u8.flip(3), images_u8)
    padded = F.pad(images, (shift,) * 4)
    first = torch.randint(0, 2 * shift + 1, (2, of_all, 1), generator=generator)[:, batch.share]
    rows, columns = first[0] + torch.arange(height), first[1] + torch.arange(width)
    example = torch.arange(count)[:, None, None]
    shifted = padded[example, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if not cutout:
        return shifted
    inside = [
        _range(torch.randint(0, size - cutout + 1, (of_all, 1), generator=generator)[batch.share], cutout, size)
        for size in (height, width)
    ]
    return shifted.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)


def _range(first: Tensor, length: int, size: int) -> Tensor:
    """Which of `size` places lie in the `length` from `first` `[N, 1]` on: `[N, size]`."""
    place = torch.arange(size) - first
    return (place >= 0) & (place < length)
