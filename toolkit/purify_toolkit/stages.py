"""The four stages of a training: classifier, two teachers, student. Each is a network and its losses."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from purify_toolkit.adversarial import AdversarialPool
from purify_toolkit.data import ImageData, Split
from purify_toolkit.evaluation import attack, batches, count_correct, device_generator
from purify_toolkit.losses import ensemble, guidance_loss, imitation_loss, reconstruction_loss
from purify_toolkit.pixels import to_8bit, to_float
from purify_toolkit.recipe import EvaluationTable, OptimizerTable, Recipe
from purify_toolkit.run_folder import RunFolder

VALIDATION_IMAGES = 2000  # of the validation part, looked at after each epoch

Losses = dict[str, Tensor]
"""Named scalar losses; their sum is minimised."""


@dataclass(frozen=True)
class Batch:
    """What a stage's losses may look at: indices `[B]` into the training images, and the epoch's generator."""

    indices: Tensor
    generator: torch.Generator


@dataclass(frozen=True)
class Stage:
    """One network to train."""

    name: str
    network: nn.Module
    optimizer: OptimizerTable
    losses: Callable[[Batch], Losses]
    validate: Callable[[], dict[str, float]]
    pool: AdversarialPool | None = None


@dataclass
class Validation:
    """Validation images, clean and adversarial, and what a purifier makes of them."""

    classifier: nn.Module
    split: Split
    attack: EvaluationTable
    device: torch.device
    _adversarial: Split | None = field(default=None, init=False)

    def purification(self, purifier: nn.Module) -> dict[str, float]:
        """Accuracy of the classifier on purified clean and adversarial images, and the L1 to the clean ones."""
        pipeline = nn.Sequential(purifier, self.classifier)
        with torch.no_grad():
            l1 = sum(float((purifier(x) - x).abs().mean()) * len(x) for x, _ in batches(self.split, self.device))
        return {
            "accuracy_clean": self.accuracy(pipeline),
            "accuracy_adversarial": self.accuracy(pipeline, adversarial=True),
            "l1_clean": l1 / len(self.split),
        }

    def accuracy(self, model: nn.Module, *, adversarial: bool = False) -> float:
        """Fraction of the validation images, or of their adversarial examples, classified right."""
        split = self._attacked() if adversarial else self.split
        return sum(count_correct(model, x, y) for x, y in batches(split, self.device)) / len(split)

    def _attacked(self) -> Split:
        if self._adversarial is None:
            generator = device_generator(0, self.device)
            examples = [
                attack(self.classifier, images, labels, self.attack, generator)
                for images, labels in batches(self.split, self.device)
            ]
            self._adversarial = Split(to_8bit(torch.cat(examples)).cpu(), self.split.labels)
        return self._adversarial


def augment(images_u8: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored by chance and shifted by up to two pixels, the gap black; uint8 `[N, C, H, W]`."""
    count, _, height, width = images_u8.shape
    mirrored = torch.rand(count, generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images_u8.flip(3), images_u8)
    padded = F.pad(images, (2, 2, 2, 2))
    shift = torch.randint(0, 5, (2, count, 1), generator=generator)
    rows = shift[0] + torch.arange(height)
    columns = shift[1] + torch.arange(width)
    example = torch.arange(count)[:, None, None]
    return padded[example, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class Stages:
    """Builds the stages of a recipe, in order; each after the first needs those before it to be trained."""

    def __init__(self, run: RunFolder, data: ImageData, *, device: torch.device) -> None:
        self._run, self._data, self._device = run, data, device
        self._recipe: Recipe = run.recipe
        self._validation: Validation | None = None

    def build(self, name: str) -> Stage:
        """The stage called `name`, one of `run_folder.WEIGHTS`."""
        builders: dict[str, Callable[[], Stage]] = {
            "classifier": self._classifier,
            "adversarial_teacher": partial(self._teacher, adversarial=True),
            "normal_teacher": partial(self._teacher, adversarial=False),
            "student": self._student,
        }
        return builders[name]()

    def _clean(self, indices: Tensor) -> Tensor:
        return to_float(self._data.train.images[indices], self._device)

    def _frozen_classifier(self) -> nn.Module:
        return self._run.load_classifier().to(self._device)

    def _new_pool(self, classifier: nn.Module) -> AdversarialPool:
        train = self._data.train
        return AdversarialPool(train.images, train.labels, classifier, self._recipe.attack, device=self._device)

    def _validate_with(self, classifier: nn.Module) -> Validation:
        if self._validation is None:
            split = self._data.validation[:VALIDATION_IMAGES]
            self._validation = Validation(classifier, split, self._recipe.evaluation, self._device)
        return self._validation

    def _classifier(self) -> Stage:
        network = self._run.new_classifier().to(self._device)
        validation = Validation(network, self._data.validation, self._recipe.evaluation, self._device)

        def losses(batch: Batch) -> Losses:
            split = self._data.train[batch.indices]
            images = to_float(augment(split.images, batch.generator), self._device)
            return {"cross_entropy": F.cross_entropy(network(images), split.labels.to(self._device))}

        return Stage(
            "classifier",
            network,
            self._recipe.classifier,
            losses,
            lambda: {"accuracy_clean": validation.accuracy(network)},
        )

    def _teacher(self, *, adversarial: bool) -> Stage:
        network = self._run.new_purifier(self._recipe.teacher).to(self._device)
        classifier = self._frozen_classifier()
        pool = self._new_pool(classifier) if adversarial else None
        weights = self._recipe.distillation

        def losses(batch: Batch) -> Losses:
            clean = self._clean(batch.indices)
            if pool is None:
                return {"reconstruction": reconstruction_loss(network(clean), clean)}
            output = network(to_float(pool.examples[batch.indices], self._device))
            return {
                "reconstruction": reconstruction_loss(output, clean),
                "guidance": weights.classifier_guidance * guidance_loss(classifier, output, clean),
            }

        validation = self._validate_with(classifier)
        name = "adversarial_teacher" if adversarial else "normal_teacher"
        return Stage(name, network, self._recipe.teacher, losses, lambda: validation.purification(network), pool)

    def _student(self) -> Stage:
        network = self._run.new_purifier(self._recipe.student).to(self._device)
        classifier = self._frozen_classifier()
        adversarial_teacher = self._run.load_teacher("adversarial_teacher").to(self._device)
        normal_teacher = self._run.load_teacher("normal_teacher").to(self._device)
        pool, weights = self._new_pool(classifier), self._recipe.distillation

        def losses(batch: Batch) -> Losses:
            clean = self._clean(batch.indices)
            # The permutation is random, so the first part of a batch is a random choice of its images.
            attacked = batch.indices[: round(weights.adversarial_fraction * len(batch.indices))]
            seen = torch.cat([to_float(pool.examples[attacked], self._device), clean[len(attacked) :]])
            seen = seen.contiguous(memory_format=torch.channels_last)
            output = network(seen)
            with torch.no_grad():
                teachers = ensemble(
                    adversarial_teacher(seen),
                    normal_teacher(clean),
                    adversarial_weight=weights.adversarial_teacher_weight,
                )
            return {
                "imitation": weights.imitation * imitation_loss(output, teachers),
                "reconstruction": weights.reconstruction * reconstruction_loss(output, clean),
                "guidance": weights.classifier_guidance * guidance_loss(classifier, output, clean),
            }

        validation = self._validate_with(classifier)
        return Stage("student", network, self._recipe.student, losses, lambda: validation.purification(network), pool)
