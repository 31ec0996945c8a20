"""What a frozen network makes of the training images: computed once, kept in memory."""

import torch
from torch import Tensor, nn

MOST_BYTES = 2**30
NEVER = -1


class Remembered:
    """A frozen network's outputs for the training images, each computed when it is first needed.

    Outputs that would take more than `MOST_BYTES` together, for all `count` images, are computed each time.
    """

    def __init__(self, network: nn.Module, count: int) -> None:
        self._network, self._count = network, count
        self._values: Tensor | None = None
        self._versions = torch.full((count,), NEVER)  # of the image that each value is of

    @torch.no_grad()
    def __call__(self, images: Tensor, indices: Tensor, versions: Tensor | None = None) -> Tensor:
        """Return the network's outputs, float32, for some of the training images.

        Args:
            images: `[B, C, H, W]`, on the network's device; at least one.
            indices: `[B]`, which of the training images they are.
            versions: int64 `[N]`: an image of another version than before is another image. None where none changes.
        """
        asked = torch.zeros_like(indices) if versions is None else versions[indices]
        missing = self._versions[indices] != asked
        if missing.any():
            some = images[missing.to(images.device)].contiguous(memory_format=torch.channels_last)
            found: Tensor = self._network(some).float()
            if self._values is None:
                if found[0].numel() * found.element_size() * self._count > MOST_BYTES:
                    return found  # of all: nothing is ever kept
                self._values = torch.empty(self._count, *found.shape[1:])
            self._values[indices[missing]] = found.cpu()
            self._versions[indices[missing]] = asked[missing]
        assert self._values is not None
        return self._values[indices].to(images.device)
