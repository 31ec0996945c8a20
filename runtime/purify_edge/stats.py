"""Statistics: intervals of a proportion and errors of outputs, without scipy, which would outweigh the runtime."""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054


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
