"""The images that a conversion to fewer bits is calibrated on."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from purify_export.convert.graphs import Array


@dataclass(frozen=True)
class ImageSet:
    """Images float32 `[N, C, H, W]` in [0, 1] and their labels int64 `[N]`."""

    images: Array
    labels: np.ndarray

    @classmethod
    def of(cls, images_u8: Tensor, labels: Tensor) -> "ImageSet":
        """Return 8-bit images `[N, C, H, W]` as such a set."""
        return cls(np.ascontiguousarray(images_u8.float().div(255).numpy()), labels.numpy())

    def __getitem__(self, index: slice) -> "ImageSet":
        return ImageSet(self.images[index], self.labels[index])


Calibration = dict[str, ImageSet]
"""The splits `clean` and `adversarial`, of different images, in equal parts; the golden set has none of them."""
