"""The suspicion score: how far purification moves the classifier's answer, and what that says of an attack.

Purification takes adversarial noise away, so it turns the answer of an attacked image and hardly that of a clean one.
An attacker who knows the score can keep it low: it is a smoke detector, not a lock.
"""

import math

import numpy as np
from numpy.typing import NDArray

from purify_runtime.manifest import SuspicionEntry

Array = NDArray[np.float32]
FALSE_POSITIVE_RATE = 0.01


def suspicion_of(unpurified: Array, purified: Array) -> Array:
    """The score of N images, float32 `[N]`: the standard deviation over the classes of the logits' change.

    With z(x) the classifier's K logits and P the purifier, `std_k(z_k(x) - z_k(P(x)))`. A number added to all logits,
    which no probability shows, leaves it as it is. It is in the logits' own unit, so it has a threshold a bundle.

    >>> suspicion_of(np.array([[1, 5, 3]], np.float32), np.array([[4, 2, 3]], np.float32)).round(4).tolist()
    [2.4495]

    Args:
        unpurified: logits `[N, K]` of the images as they came.
        purified: logits `[N, K]` of the purified images.
    """
    result: Array = (unpurified - purified).std(axis=1)
    return result


def is_suspicious(scores: Array, threshold: float) -> NDArray[np.bool_]:
    """Which scores `[N]` lie above the threshold; a score that is not a number counts as such."""
    return ~(scores <= threshold)


def calibrate(scores: Array, *, rate: float = FALSE_POSITIVE_RATE, source: str) -> SuspicionEntry | None:
    """The threshold that a new clean image exceeds with a chance of `rate` at most; None where there are too few.

    Of n scores it is the one in place `ceil((n + 1) (1 - rate))`, the smallest first: so the bound holds for every
    distribution and every n, over the draw of images of the same kind as these (split conformal prediction, Lei et al.
    2018, doi:10.1080/01621459.2017.1307116). It takes 99 images for a rate of 1%.

    Args:
        scores: `[N]`, of clean images that nothing else was fitted to.
        rate: of false positives.
        source: where the images came from.
    """
    place = math.ceil((len(scores) + 1) * (1 - rate) - 1e-9)
    if place > len(scores) or not np.isfinite(scores).all():
        return None
    return SuspicionEntry(
        threshold=float(np.sort(scores)[place - 1]), false_positive_rate=rate, n=len(scores), images=source
    )
