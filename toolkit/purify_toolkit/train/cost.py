"""The cost of a training, before it begins: its networks' floating-point operations, and about how long it takes."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from purify_toolkit.data.splits import ImageData
from purify_toolkit.recipe import OptimizerTable, Recipe
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.train.stages import validated

TRIED = 4
"""Images of the trial that measures the device's speed."""


@dataclass(frozen=True)
class TrainingCost:
    """Floating-point operations, a multiplication and an addition as two.

    `classifier`, `teacher` and `student` are of one image, forwards; `seconds` is an estimate for each stage.
    """

    classifier: int
    teacher: int
    student: int
    seconds: dict[str, float]


def cost_of(run: RunFolder, data: ImageData, device: torch.device) -> TrainingCost:
    """Return what the stages that are still to be trained cost, and the evaluation after them.

    Convolutions and matrix products count, and as much again for each gradient: an attack's step costs two passes of
    the classifier, a training step three of the purifier. The device's speed is measured on the student and classifier.
    """
    image = data.train.images[:1]
    networks = {
        "classifier": run.load_classifier() if run.has("classifier") else run.new_classifier(),
        "teacher": run.new_purifier(run.recipe.teacher),
        "student": run.new_purifier(run.recipe.student),
    }
    flop = {name: _flop(network.eval(), image.float() / 255) for name, network in networks.items()}
    speed = _speed(nn.Sequential(networks["student"], networks["classifier"]).to(device), data, device)
    speed *= 3 * (flop["student"] + flop["classifier"])
    work = _Work(run.recipe, data, **flop)
    todo = [name for name in run.stages if not run.has(name)]
    seconds = {name: work.of_stage(name) / speed for name in todo} | {"evaluation": work.of_evaluation() / speed}
    return TrainingCost(**flop, seconds=seconds)


def _flop(network: nn.Module, images: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return int(counter.get_total_flops())


def _speed(pipeline: nn.Module, data: ImageData, device: torch.device) -> float:
    """Return how many images a second go through the pipeline and back; the first pass warms up."""
    images = (data.train.images[:TRIED].float() / 255).to(device)
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        pipeline(images).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    return len(images) / seconds


@dataclass(frozen=True)
class _Work:
    """Floating-point operations of whole stages."""

    recipe: Recipe
    data: ImageData
    classifier: int
    teacher: int
    student: int

    def of_stage(self, name: str) -> float:
        recipe, weights = self.recipe, self.recipe.distillation
        if name == "classifier":
            return self._images(recipe.classifier) * 3 * self.classifier
        table = recipe.purifier(name)
        purifier = self.student if name == "student" else self.teacher
        guidance = {"student": weights.classifier_guidance, "adversarial_teacher": weights.guidance_of_teacher}
        guided = 2 * self.classifier if guidance.get(name) else 0
        taught = len(recipe.teachers) * self.teacher if name == "student" else 0
        attacks = 0.0
        if name == "student" and recipe.adaptive:
            a_step = 2 * (purifier + self.classifier)
            attacks = self._images(table) * weights.adversarial_fraction * recipe.adaptive.steps * a_step
        elif name != "normal_teacher":
            attacks = self._attacked(table) * recipe.attack.steps * 2 * self.classifier
        judged = table.length(len(self.data.train))[0] * 2 * len(validated(self.data.validation))
        return self._images(table) * (3 * purifier + guided + taught) + attacks + judged * (purifier + self.classifier)

    def of_evaluation(self) -> float:
        """Return the operations of the attacks on the classifier alone and through the purifier, on the test images."""
        a_step = 2 * self.classifier + 2 * (self.classifier + self.student)
        return len(self.data.test) * self.recipe.evaluation.steps * a_step

    def _images(self, table: OptimizerTable) -> int:
        epochs, steps = table.length(len(self.data.train))
        return epochs * steps * min(table.batch_size, len(self.data.train))

    def _attacked(self, table: OptimizerTable) -> float:
        epochs = table.length(len(self.data.train))[0]
        an_epoch = min(len(self.data.train), self._images(table) / epochs)
        return an_epoch * (1 + (epochs - 1) / self.recipe.attack.refresh_epochs)
