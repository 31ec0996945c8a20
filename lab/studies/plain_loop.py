"""The training loop that one would write first, for a teacher or the student; training_speed.py compares with it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

from purify_toolkit.attacks.gradient import FGSM, PGD
from purify_toolkit.data.splits import Split
from purify_toolkit.recipe import PurifierTable, Recipe
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.train.losses import ensemble, guidance_loss, imitation_loss, reconstruction_loss
from purify_toolkit.train.trainer import OPTIMIZERS

TEACHERS = ("adversarial_teacher", "normal_teacher")


def table_of(recipe: Recipe, stage: str) -> PurifierTable:
    """Return the recipe's table of a teacher or the student."""
    return recipe.purifier(stage)


class EightBit(Dataset[tuple[Tensor, int]]):
    """8-bit images, each made a float tensor `[C, H, W]` when it is accessed."""

    def __init__(self, split: Split) -> None:
        self._images = split.images.permute(0, 2, 3, 1).contiguous().numpy()  # as an image file is decoded
        self._labels = split.labels.tolist()
        self._transform = ToTensor()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(self._images[index]), self._labels[index]


class PlainLoop:
    """A loop that trains a teacher or the student of a run that has what it needs, and keeps its weights nowhere."""

    def __init__(self, run: RunFolder, stage: str, *, device: torch.device, seed: int) -> None:
        losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "adversarial_teacher": self._adversarial_teacher,
            "normal_teacher": self._normal_teacher,
            "student": self._student,
        }
        self._loss, self._recipe, self._device = losses[stage], run.recipe, device
        self._table = table_of(run.recipe, stage)
        self._network: nn.Module = run.new_purifier(self._table).to(device)
        self._classifier: nn.Module = run.load_classifier().to(device)
        needed = TEACHERS if stage == "student" else ()
        self._teachers = {name: run.load_teacher(name).to(device) for name in needed}
        self._generator = torch.Generator(device).manual_seed(seed)

    def loader(self, split: Split) -> DataLoader[tuple[Tensor, int]]:
        """Return batches of shuffled images, without a last, smaller one, as the product does."""
        return DataLoader(EightBit(split), batch_size=self._table.batch_size, shuffle=True, drop_last=True)

    def epoch(self, loader: DataLoader[tuple[Tensor, int]], advance: Callable[[int], None]) -> None:
        """Train an epoch from first weights; `advance` gets the number of images of each step."""
        table = self._table
        optimizer = OPTIMIZERS[table.optimizer](
            self._network.parameters(), lr=table.learning_rate, weight_decay=table.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, table.learning_rate, total_steps=len(loader))
        self._network.train()
        for images, labels in loader:
            loss = self._loss(images.to(self._device), labels.to(self._device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            advance(len(labels))

    def _normal_teacher(self, images: Tensor, labels: Tensor) -> Tensor:
        return reconstruction_loss(self._network(images), images)

    def _adversarial_teacher(self, images: Tensor, labels: Tensor) -> Tensor:
        output = self._network(self._attacked(images, labels))
        return reconstruction_loss(output, images) + self._guidance(output, images)

    def _student(self, images: Tensor, labels: Tensor) -> Tensor:
        weights = self._recipe.distillation
        count = round(weights.adversarial_fraction * len(images))
        seen = torch.cat([self._attacked(images[:count], labels[:count]), images[count:]])
        output = self._network(seen)
        with torch.no_grad():
            adversarial, normal = (self._teachers[name](x) for name, x in zip(TEACHERS, (seen, images), strict=True))
        shown = ensemble(adversarial, normal, adversarial_weight=weights.adversarial_teacher_weight)
        return (
            weights.imitation * imitation_loss(output, shown)
            + weights.reconstruction * reconstruction_loss(output, images)
            + self._guidance(output, images)
        )

    def _guidance(self, output: Tensor, images: Tensor) -> Tensor:
        with torch.no_grad():
            target = self._classifier(images)
        return self._recipe.distillation.classifier_guidance * guidance_loss(self._classifier(output), target)

    def _attacked(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return fresh adversarial examples by the recipe's table [attack], as the product's `AdversarialPool`."""
        attack, model = self._recipe.attack, self._classifier
        draw = torch.rand(len(images), 1, 1, 1, device=self._device, generator=self._generator)
        epsilon = attack.epsilon_min + draw * (attack.epsilon_max - attack.epsilon_min)
        single = torch.rand(len(images), device=self._device, generator=self._generator) < attack.single_step
        many, examples = ~single, images.clone()
        one = FGSM(epsilon=epsilon[single])
        examples[single] = one(model, images[single], labels[single], generator=self._generator)
        pgd = PGD(epsilon=epsilon[many], steps=attack.steps, relative_step=attack.relative_step)
        examples[many] = pgd(model, images[many], labels[many], generator=self._generator)
        return examples
