"""The adversarial training examples: made once, kept as 8-bit images, each renewed every few epochs."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from purify_toolkit.attacks.gradient import fgsm, pgd
from purify_toolkit.pixels import batch_size, to_8bit, to_float
from purify_toolkit.recipe import AttackTable


class AdversarialPool:
    """PGD examples of the training images against the frozen classifier.

    A fresh attack on each image in each epoch would cost several times the training itself. Since the
    classifier never changes, examples may be reused: each image is attacked in the first epoch, then
    image `i` again whenever `(i + epoch) % refresh_epochs == 0`, each time with a new random start and a
    radius drawn evenly from `[epsilon_min, epsilon_max]`. The cost is so spread evenly over the epochs. A later stage
    that is given an earlier one's examples goes on from them, without attacking all at once again.

    Of all examples a random share, `single_step`, is made by one step as long as the radius (FGSM): those of many
    steps lie elsewhere, and a purifier that has seen no others lets many of one step through.

    Attributes:
        examples: uint8 `[N, C, H, W]`; without those of an earlier stage the clean images until the first refresh.

    Args:
        images: clean training images, uint8 `[N, C, H, W]`.
        labels: `[N]`.
        classifier: frozen, pixels -> logits.
        attack: the recipe's table.
        device: where the attack runs.
        examples: those that an earlier stage ended with.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        classifier: Callable[[Tensor], Tensor],
        attack: AttackTable,
        *,
        device: torch.device,
        examples: Tensor | None = None,
    ) -> None:
        self.examples = images.clone() if examples is None else examples
        self._new = examples is None
        self._images, self._labels = images, labels
        self._classifier, self._attack, self._device = classifier, attack, device

    def due(self, epoch: int) -> Tensor:
        """The indices of the images that are attacked anew in this epoch."""
        indices = torch.arange(len(self._images))
        return indices if self._new and epoch == 0 else indices[(indices + epoch) % self._attack.refresh_epochs == 0]

    def refresh(self, epoch: int, generator: torch.Generator) -> Iterator[int]:
        """Attack the images that are due, a batch a turn; yields the number of images done by each turn."""
        for indices in self.due(epoch).split(batch_size(self._images)):
            self.examples[indices] = self._attacked(indices, generator)
            yield len(indices)

    def _attacked(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        attack = self._attack
        draw = torch.rand(len(indices), 1, 1, 1, generator=generator, device=self._device)
        single = torch.rand(len(indices), generator=generator, device=self._device) < attack.single_step
        x, labels = to_float(self._images[indices], self._device), self._labels[indices].to(self._device)
        epsilon = attack.epsilon_min + draw * (attack.epsilon_max - attack.epsilon_min)
        examples = x.clone()
        examples[single] = fgsm(self._classifier, x[single], labels[single], epsilon=epsilon[single])
        examples[~single] = pgd(
            self._classifier,
            x[~single],
            labels[~single],
            epsilon=epsilon[~single],
            steps=attack.steps,
            relative_step=attack.relative_step,
            generator=generator,
        )
        return to_8bit(examples).cpu()
