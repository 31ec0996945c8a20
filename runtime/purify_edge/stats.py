"""Statistics: intervals of a proportion, errors, classes that agree; without scipy, heavier than the runtime."""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
TIE = 0.04
"""Two classes tie where PyTorch's logits for them differ by less than this fraction of what differs between images.

It is three standard deviations of that difference where every logit has the largest error of float16: 3 sqrt(2) 0.01.
Over 1,000 classes 6% of clean photographs tie, of Fashion-MNIST's images 2%."""


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the 95% score interval of a proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    >>> [round(bound, 4) for bound in wilson(250, 256)]
    [0.9498, 0.9892]
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, Z95**2
    centre = share + z2 / (2 * n)
    spread = Z95 * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (centre - spread) / (1 + z2 / n), (centre + spread) / (1 + z2 / n)


def relative_error(output: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the error of outputs `[N, ...]`: the root mean square of the difference to the reference, as a fraction of
    the root mean square of what differs between images.

    Measured against the outputs' size, a small error could be all that tells one image from another. Where no image
    differs from another, the outputs' size is taken instead.
    """
    size = spread_of(reference)
    error = np.sqrt(np.square(output - reference, dtype=np.float64).mean())
    return float(error / size) if size else float(error > 0)


def spread_of(reference: NDArray[np.float32]) -> float:
    """Return the root mean square of what differs between outputs `[N, ...]`; of one output, its own."""
    spread = reference - reference.mean(axis=0) if len(reference) > 1 else reference
    return float(np.sqrt(np.square(spread, dtype=np.float64).mean()))


def agreeing(said: NDArray[np.int64], reference: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which of N images got PyTorch's class, or one that ties with it.

    Args:
        said: the classes `[N]` that an engine gives; -1 for no answer.
        reference: PyTorch's logits `[N, K]`.
    """
    agrees: NDArray[np.bool_] = (said >= 0) & agreeing_classes(reference)[np.arange(len(said)), said]
    return agrees


def agreeing_classes(reference: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return bool `[N, K]`: PyTorch's class by its logits `[N, K]`, and those that tie with it."""
    behind = reference.max(axis=1, keepdims=True) - reference
    agrees: NDArray[np.bool_] = behind < TIE * spread_of(reference)
    agrees[np.arange(len(reference)), reference.argmax(axis=1)] = True
    return agrees
