"""The adversarial training examples: made once, kept as 8-bit images, each made anew every few epochs."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from purify_toolkit.attacks.gradient import FGSM, PGD
from purify_toolkit.attacks.norms import LINF
from purify_toolkit.data.augmentation import random_crops
from purify_toolkit.data.pixels import batch_size, to_8bit, to_float
from purify_toolkit.device.processes import Processes
from purify_toolkit.recipe import AttackTable

PoolState = dict[str, Tensor]
"""A pool's images, examples and versions, by the names of its attributes."""


class AdversarialPool:
    """PGD examples of the training images against the frozen classifier.

    A fresh attack on each image in each epoch would cost several times the training itself. Since the
    classifier never changes, examples may be reused: each image is attacked in the first epoch that uses it, then
    image `i` again whenever `(i + epoch) % refresh_epochs == 0`, each time with a new random start and a
    radius drawn evenly from `[epsilon_min, epsilon_max]`. The cost is so spread evenly over the epochs. A later stage
    that is given an earlier one's examples goes on from them, without attacking all at once again.

    Of all examples a random share, `single_step`, is made by one step as long as the radius (FGSM): those of many
    steps lie elsewhere, and a purifier that has seen no others lets many of one step through.

    With `crop` below 1, an image is cropped at random each time before it is attacked, so that few images show more.

    Attributes:
        images: the clean images as they are shown, uint8 `[N, C, H, W]`: each cropped as its example is.
        examples: the same, attacked; without those of an earlier stage the clean images until the first refresh.
        versions: int64 `[N]`, how often each has been made anew; 0 where it is the clean image still.
        crops: whether images are cropped.

    Args:
        images: clean training images, uint8 `[N, C, H, W]`.
        labels: `[N]`.
        classifier: frozen, pixels -> logits; None to stay with the examples of an earlier stage.
        attack: the recipe's table.
        processes: that share the attacks; they run on the device of each.
        earlier: the `state` that an earlier stage ended with.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        classifier: Callable[[Tensor], Tensor] | None,
        attack: AttackTable,
        *,
        processes: Processes,
        earlier: PoolState | None = None,
    ) -> None:
        self.crops = attack.crop < 1
        self.images = images.clone() if self.crops else images
        self.examples, self.versions = images.clone(), torch.zeros(len(images), dtype=torch.int64)
        self._originals, self._labels = images, labels
        self._classifier, self._attack, self._processes = classifier, attack, processes
        if earlier is not None:
            self.state = earlier

    @property
    def state(self) -> PoolState:
        """All that a later stage needs to go on from here."""
        state = {"examples": self.examples, "versions": self.versions}
        return state | {"images": self.images} if self.crops else state

    @state.setter
    def state(self, state: PoolState) -> None:
        self.examples, self.versions = state["examples"].cpu(), state["versions"].cpu()
        if self.crops:
            self.images = state["images"].cpu()

    def due(self, epoch: int, used: Tensor) -> Tensor:
        """Return which of the images that are used in this epoch, by their indices, are attacked anew before it."""
        if self._classifier is None:
            return used[:0]
        used = used.unique()
        return used[(self.versions[used] == 0) | ((used + epoch) % self._attack.refresh_epochs == 0)]

    def refresh(self, due: Tensor, generator: torch.Generator) -> Iterator[int]:
        """Attack the images that are due, a batch a turn and process; yields how many images are done, batch by batch.

        Each process draws for all batches, so that the examples do not depend on the number of processes.
        """
        if not len(due):
            return
        chunks, count = due.split(batch_size(self._originals, self._processes.device)), self._processes.count
        for turn in (chunks[first : first + count] for first in range(0, len(chunks), count)):
            found = []
            for owner, indices in enumerate(turn):
                if self.crops:
                    originals = self._originals[indices]
                    self.images[indices] = random_crops(originals, smallest=self._attack.crop, generator=generator)
                found.append(self._attacked(indices, generator, owner))
            for owner, indices in enumerate(turn):
                self.examples[indices] = self._processes.from_owner(found[owner], owner)
                self.versions[indices] += 1
                yield len(indices)

    def _attacked(self, indices: Tensor, generator: torch.Generator, owner: int) -> Tensor:
        """Return the examples, uint8; those that fall to another process unchanged."""
        assert self._classifier is not None
        attack, images = self._attack, self.images[indices]
        device = self._processes.device
        draw = torch.rand(len(indices), 1, 1, 1, generator=generator, device=device)
        epsilon = attack.epsilon_min + draw * (attack.epsilon_max - attack.epsilon_min)
        single = torch.rand(len(indices), generator=generator, device=device) < attack.single_step
        start = LINF.start(draw.expand(images.shape), epsilon, generator)
        if owner != self._processes.index:
            return images
        x, labels, many = to_float(images, device), self._labels[indices].to(device), ~single
        examples = x.clone()
        fgsm = FGSM(epsilon=epsilon[single])
        examples[single] = fgsm(self._classifier, x[single], labels[single], generator=generator)
        pgd = PGD(epsilon=epsilon[many], steps=attack.steps, relative_step=attack.relative_step)
        examples[many] = pgd(self._classifier, x[many], labels[many], generator=generator, start=start[many])
        return to_8bit(examples).cpu()
