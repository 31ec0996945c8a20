"""How many images an export takes for what: fewer where they are large, for time's sake and the bundle's size."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

IMAGES = 256
OTHERS = 2000


@dataclass(frozen=True)
class Amount:
    """So many images, or as many as have so many pixel values together, but not fewer than the least.

    >>> [GOLDEN.of((3, side, side)) for side in (32, 224, 1024)]
    [256, 100, 100]
    """

    most: int
    values: int
    least: int

    def of(self, image_shape: Sequence[int]) -> int:
        """Return how many images `[C, H, W]`."""
        return max(self.least, min(self.most, self.values // prod(image_shape)))


GOLDEN = Amount(IMAGES, 15_200_000, 100)  # of each split of the golden set: two of them have LEAST_ANSWERS
OTHER = Amount(OTHERS, 40_000_000, 128)  # clean images beside it, which set the threshold of suspicion
BENIGN = Amount(252, 9_000_000, 60)  # of those, and of the golden set, for each change that is no attack
CALIBRATION = Amount(512, 20_000_000, 64)  # of those, for INT8
RANKED = Amount(64, 2_000_000, 8)  # of each split for INT8, to rank the layers on
SCANNED = Amount(IMAGES, 3_600_000, 8)  # of each split of the golden set, for the ranges of 16 bits
