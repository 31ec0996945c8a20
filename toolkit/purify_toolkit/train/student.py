"""What the student learns from: its examples, its teachers' images and, in an adaptive recipe, the labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.attacks.norms import LINF
from purify_toolkit.data.augmentation import augment
from purify_toolkit.data.batch import Batch
from purify_toolkit.data.pixels import to_float
from purify_toolkit.data.splits import Split
from purify_toolkit.networks.features import ClassifierFeatures
from purify_toolkit.recipe import Recipe
from purify_toolkit.train.examples import AdversarialPool
from purify_toolkit.train.losses import (
    ensemble,
    feature_loss,
    guidance_loss,
    imitation_loss,
    reconstruction_loss,
    structure_loss,
)
from purify_toolkit.train.teacher_cache import Remembered

Losses = dict[str, Tensor]
"""Named scalar losses; their sum is minimised."""


@dataclass(frozen=True)
class StudentLosses:
    """The student's losses on a batch, see `losses` for the formulas.

    By default its adversarial examples are those of the pool, made against the classifier alone. An adaptive recipe
    makes them anew at each step through student and classifier, as AdvAE does (Li et al. 2019, arXiv 1905.10729), from
    images that are mirrored and shifted at random, and adds the cross-entropy of the labels.
    """

    student: nn.Module
    classifier: nn.Module
    teachers: Mapping[str, nn.Module]
    pool: AdversarialPool | None
    train: Split
    recipe: Recipe
    device: torch.device

    def __call__(self, batch: Batch) -> Losses:
        """Return each weighted term by its name."""
        weights, adaptive = self.recipe.distillation, self.recipe.adaptive
        labels = self.train.labels[batch.mine].to(self.device)
        images = (self.train if self.pool is None else self.pool).images[batch.mine].to(self.device)
        clean = to_float(augment(images, batch) if adaptive else images, self.device)
        seen, attacked = self._seen(batch, clean, labels)
        output = self.student(seen)
        found = {}
        if weights.imitation:
            shown = self._shown(seen, clean, batch.mine, attacked)
            found["imitation"] = weights.imitation * imitation_loss(output, shown)
        if weights.reconstruction:
            found["reconstruction"] = weights.reconstruction * reconstruction_loss(output, clean)
        if weights.structure:
            found["structure"] = weights.structure * structure_loss(output, clean)
        if weights.feature_guidance:
            features, logits = self._features.with_logits(output)
            target = self._made_by("features", clean, batch.mine)
            found["features"] = weights.feature_guidance * feature_loss(features, target)
        elif weights.classifier_guidance or adaptive:
            logits = self.classifier(output)
        if weights.classifier_guidance:
            target = self._made_by("classifier", clean, batch.mine)
            found["guidance"] = weights.classifier_guidance * guidance_loss(logits, target)
        if adaptive:
            found["labels"] = adaptive.labels * F.cross_entropy(logits, labels)
        return found

    def _seen(self, batch: Batch, clean: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """Return the images, and how many at their beginning are attacked: a random choice, as is the batch's order."""
        of_all, count = batch.first(self.recipe.distillation.adversarial_fraction)
        if self.pool is None:
            attacked = self._white_box(clean[:count], labels[:count], batch, of_all)
        else:
            attacked = to_float(self.pool.examples[batch.mine[:count]], self.device)
        return torch.cat([attacked, clean[count:]]).contiguous(memory_format=torch.channels_last), count

    def _white_box(self, images: Tensor, labels: Tensor, batch: Batch, of_all: int) -> Tensor:
        """Attack the images of this process; the random starts are drawn for those of all."""
        adaptive = self.recipe.adaptive
        assert adaptive is not None
        all_images = images.new_empty(1).expand(of_all, *images.shape[1:])  # of which only the shape counts
        start = LINF.start(all_images, adaptive.epsilon, batch.attack_generator)[batch.share]
        pgd = PGD(
            epsilon=adaptive.epsilon,
            steps=adaptive.steps,
            relative_step=adaptive.relative_step,
            decay=adaptive.decay,
        )
        pipeline = nn.Sequential(self.student, self.classifier)
        return pgd(pipeline, images, labels, generator=batch.attack_generator, start=start)

    def _shown(self, seen: Tensor, clean: Tensor, indices: Tensor, attacked: int) -> Tensor:
        """Return what the adversarial teacher makes of what the student sees, and the second one of the original."""
        shares = self.recipe.distillation.adversarial_shares
        second = clean
        if "normal_teacher" in self.teachers:
            second = self._made_by("normal_teacher", clean, indices)
        if "adversarial_teacher" not in self.teachers:
            return second
        parts = {True: slice(attacked), False: slice(attacked, None)}
        first = [
            self._made_by("adversarial_teacher", seen[part], indices[part], attacked=is_attacked)
            for is_attacked, part in parts.items()
            if len(indices[part])
        ]
        weight = seen.new_tensor(shares).repeat_interleave(indices.new_tensor([attacked, len(seen) - attacked]))
        return ensemble(torch.cat(first), second, adversarial_weight=weight.view(-1, 1, 1, 1))

    @torch.no_grad()
    def _made_by(self, name: str, images: Tensor, indices: Tensor, *, attacked: bool = False) -> Tensor:
        """Return what a frozen network makes of training images, attacked or not; remembered where they come again."""
        if self.pool is None:  # adaptive: augmented and attacked anew each time
            made: Tensor = self._frozen[name](images).float()
            return made
        changes = attacked or self.pool.crops
        return self._remembered[name, attacked](images, indices, self.pool.versions if changes else None)

    @cached_property
    def _features(self) -> ClassifierFeatures:
        return ClassifierFeatures(self.classifier)

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
