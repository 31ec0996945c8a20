"""The images that a conversion to fewer bits is calibrated on."""

from dataclasses import dataclass

import numpy as np

from purify_export.convert.graphs import Array


@dataclass(frozen=True)
class ImageSet:
    """Images float32 `[N, C, H, W]` in [0, 1] and their labels int64 `[N]`."""

    images: Array
    labels: np.ndarray


Calibration = dict[str, ImageSet]
"""The splits `clean` and `adversarial`, of different images, in equal parts; the golden set has none of them."""
