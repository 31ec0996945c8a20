"""The stages of a training: classifier, teachers, student. Each is a network and its losses."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from purify_edge.errors import InputError
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.augmentation import augment
from purify_toolkit.data.batch import Batch
from purify_toolkit.data.pixels import to_8bit, to_float
from purify_toolkit.data.splits import ImageData, Split, batches
from purify_toolkit.device.processes import Processes
from purify_toolkit.networks.answers import count_correct
from purify_toolkit.networks.architectures import Classifier, Purifier, whiten
from purify_toolkit.recipe import OptimizerTable, PurifierTable, Recipe
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.train.examples import AdversarialPool
from purify_toolkit.train.losses import guidance_loss, reconstruction_loss
from purify_toolkit.train.student import Losses, StudentLosses
from purify_toolkit.train.teacher_cache import Remembered
from purify_toolkit.train.warm_start import start_from

VALIDATION_IMAGES, VALIDATION_PIXELS = 2000, 2000 * 64 * 64  # of the validation part, looked at after each epoch
FEWEST_VALIDATION_IMAGES = 200  # however large they are
WHITENING_IMAGES = 5000  # of the training part, for the classifier's first layer
WHITE_BOX_IMAGES = 500  # of those, attacked through purifier and classifier


@dataclass(frozen=True)
class TrainingStage:
    """One network to train."""

    name: str
    network: nn.Module
    optimizer: OptimizerTable
    losses: Callable[[Batch], Losses]
    validate: Callable[[], dict[str, float]]
    pool: AdversarialPool | None = None
    prepare: Callable[[], None] | None = None  # the network, once it has its first weights
    keep_statistics: bool = False  # those of batch normalisation, and use them in training too


def validated(split: Split) -> Split:
    """Return the validation images to look at after each epoch: fewer where they are large, for time's sake."""
    height, width = split.images.shape[2:]
    return split[: min(VALIDATION_IMAGES, max(FEWEST_VALIDATION_IMAGES, VALIDATION_PIXELS // (height * width)))]


class Absent(nn.Module):
    """What stands in the place of a classifier that is elsewhere: no loss may ask it."""

    def forward(self, x: Tensor) -> Tensor:
        """Fail."""
        raise RuntimeError("a loss asks the classifier, which is not here")


@torch.no_grad()
def l1_to_clean(purifier: nn.Module, split: Split, device: torch.device) -> float:
    """Return the mean absolute difference that a purifier makes to clean images."""
    return sum(float((purifier(x) - x).abs().mean()) * len(x) for x, _ in batches(split, device)) / len(split)


@dataclass
class Validation:
    """Validation images, clean and adversarial, and what a purifier makes of them."""

    classifier: nn.Module
    split: Split
    attack: PGD
    device: torch.device
    _adversarial: Split | None = field(default=None, init=False)

    def purification(self, purifier: nn.Module) -> dict[str, float]:
        """Measure the classifier on purified clean and adversarial images, and the L1 to the clean ones."""
        pipeline = nn.Sequential(purifier, self.classifier)
        return {
            "accuracy_clean": self.accuracy(pipeline),
            "accuracy_adversarial": self.accuracy(pipeline, adversarial=True),
            "l1_clean": l1_to_clean(purifier, self.split, self.device),
        }

    def white_box(self, purifier: nn.Module) -> dict[str, float]:
        """Measure the pipeline under the recipe's attack through purifier and classifier, on the first images."""
        pipeline, split = nn.Sequential(purifier, self.classifier), self.split[:WHITE_BOX_IMAGES]
        generator = torch.Generator(self.device).manual_seed(0)
        right = sum(
            count_correct(pipeline, self.attack(pipeline, x, y, generator=generator), y)
            for x, y in batches(split, self.device)
        )
        return {"accuracy_white_box": right / len(split)}

    def accuracy(self, model: nn.Module, *, adversarial: bool = False) -> float:
        """Return the fraction of the validation images, or of their adversarial examples, classified right."""
        split = self.attacked if adversarial else self.split
        return sum(count_correct(model, x, y) for x, y in batches(split, self.device)) / len(split)

    @property
    def attacked(self) -> Split:
        """The adversarial examples of the validation images, made against the classifier alone, as 8 bits."""
        if self._adversarial is None:
            generator = torch.Generator(self.device).manual_seed(0)
            with torch.autocast(self.device.type, enabled=False):
                examples = [
                    self.attack(self.classifier, images, labels, generator=generator)
                    for images, labels in batches(self.split, self.device)
                ]
            self._adversarial = Split(to_8bit(torch.cat(examples)).cpu(), self.split.labels)
        return self._adversarial


class Stages:
    """Builder of the stages of a recipe, in order; each after the first needs those before it to be trained.

    With `no_classifier` the student's needs the teachers and their examples alone.
    """

    def __init__(self, run: RunFolder, data: ImageData, *, processes: Processes, no_classifier: bool = False) -> None:
        self._run, self._data, self._no_classifier = run, data, no_classifier
        self._processes, self._device = processes, processes.device
        self._recipe: Recipe = run.recipe

    def build(self, name: str) -> TrainingStage:
        """Build the stage called `name`, one of `RunFolder.stages`."""
        builders: dict[str, Callable[[], TrainingStage]] = {
            "classifier": self._classifier,
            "adversarial_teacher": partial(self._teacher, adversarial=True),
            "normal_teacher": partial(self._teacher, adversarial=False),
            "student": self._student,
        }
        return builders[name]()

    @cached_property
    def validation(self) -> Validation:
        """The validation images to look at, before the trained classifier."""
        split, attack = validated(self._data.validation), PGD.of(self._recipe.evaluation)
        return Validation(self._frozen_classifier, split, attack, self._device)

    @cached_property
    def _frozen_classifier(self) -> nn.Module:
        return self._run.load_classifier().to(self._device)

    def _new_pool(self, classifier: nn.Module | None) -> AdversarialPool:
        train, earlier = self._data.train, self._run.load_examples()
        attack, processes = self._recipe.attack, self._processes
        return AdversarialPool(train.images, train.labels, classifier, attack, processes=processes, earlier=earlier)

    def _classifier(self) -> TrainingStage:
        network, table = self._run.new_classifier().to(self._device), self._recipe.classifier
        side = min(self._data.train.images.shape[2:])
        if max(table.shift, table.cutout) >= side:
            raise InputError(
                f"[classifier] shift {table.shift} or cutout {table.cutout} leaves nothing of images of {side} pixels; "
                "expected less"
            )
        validation = Validation(network, self._data.validation, PGD.of(self._recipe.evaluation), self._device)

        def losses(batch: Batch) -> Losses:
            split = self._data.train[batch.mine]
            images = augment(split.images.to(self._device), batch, shift=table.shift, cutout=table.cutout)
            logits, labels = network(to_float(images, self._device)), split.labels.to(self._device)
            return {"cross_entropy": F.cross_entropy(logits, labels, label_smoothing=table.label_smoothing)}

        def prepare() -> None:
            first = network.features[0] if isinstance(network, Classifier) else None
            if isinstance(first, nn.Conv2d):
                images = to_float(self._data.train.images[:WHITENING_IMAGES], self._device)
                whiten(first, (images - network.mean) / network.std)

        def validate() -> dict[str, float]:
            return {"accuracy_clean": validation.accuracy(network)}

        return TrainingStage("classifier", network, table, losses, validate, prepare=prepare)

    def _teacher(self, *, adversarial: bool) -> TrainingStage:
        name = "adversarial_teacher" if adversarial else "normal_teacher"
        table = self._recipe.purifier(name)
        network = self._run.new_purifier(table).to(self._device)
        classifier = self._frozen_classifier
        remembered = Remembered(classifier, len(self._data.train))
        pool = self._new_pool(classifier) if adversarial else None
        weights = self._recipe.distillation

        def losses(batch: Batch) -> Losses:
            images = self._data.train.images if pool is None else pool.images
            clean = to_float(images[batch.mine], self._device)
            if pool is None:
                return {"reconstruction": reconstruction_loss(network(clean), clean)}
            output = network(to_float(pool.examples[batch.mine], self._device))
            target = remembered(clean, batch.mine, pool.versions if pool.crops else None)
            return {
                "reconstruction": reconstruction_loss(output, clean),
                "guidance": weights.guidance_of_teacher * guidance_loss(classifier(output), target),
            }

        validation = self.validation
        return self._purifier_stage(name, network, table, losses, lambda: validation.purification(network), pool)

    def _purifier_stage(
        self,
        name: str,
        network: Purifier,
        table: PurifierTable,
        losses: Callable[[Batch], Losses],
        validate: Callable[[], dict[str, float]],
        pool: AdversarialPool | None,
    ) -> TrainingStage:
        prepare = partial(start_from, network, table) if table.start else None
        return TrainingStage(
            name, network, table, losses, validate, pool, prepare=prepare, keep_statistics=table.start is not None
        )

    def _student(self) -> TrainingStage:
        network = self._run.new_purifier(self._recipe.student).to(self._device)
        classifier = None if self._no_classifier else self._frozen_classifier
        adaptive = self._recipe.adaptive is not None
        pool = None if adaptive else self._new_pool(classifier)
        teachers = {name: self._run.load_teacher(name).to(self._device) for name in self._recipe.teachers}
        losses = StudentLosses(
            network, classifier or Absent(), teachers, pool, self._data.train, self._recipe, self._device
        )

        def validate() -> dict[str, float]:
            if classifier is None:
                return {"l1_clean": l1_to_clean(network, validated(self._data.validation), self._device)}
            validation = self.validation
            return validation.purification(network) | (validation.white_box(network) if adaptive else {})

        return self._purifier_stage("student", network, self._recipe.student, losses, validate, pool)
