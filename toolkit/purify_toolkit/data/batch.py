"""A training batch: which images, and the generators of its random choices."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """All that a stage's losses may look at."""

    indices: Tensor  # `[B]`, into the training images; of the whole batch, however many processes share it
    generator: torch.Generator  # of the epoch, on the CPU
    attack_generator: torch.Generator  # of the epoch, on the device. Both are drawn from for the whole batch
    # of the batch, what falls to this process; a loss is the mean over it
    share: slice = field(default_factory=lambda: slice(0, None, 1))

    @property
    def mine(self) -> Tensor:
        """The indices of this process's images."""
        return self.indices[self.share]

    def parts(self, count: int) -> Iterator["Batch"]:
        """Yield this process's images of the batch in `count` parts; each part draws the random numbers of all."""
        generators = (self.generator, self.attack_generator)
        states = [generator.get_state() for generator in generators]
        for part in range(count):
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
            start, step = self.share.start, self.share.step
            yield replace(self, share=slice(start + part * step, None, count * step))

    def first(self, fraction: float) -> tuple[int, int]:
        """Return how many images the first part of the batch holds, and how many of these are this process's."""
        count = round(fraction * len(self.indices))
        return count, len(range(count)[self.share])
