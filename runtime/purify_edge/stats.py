"""The statistics of a check; its own few lines, for scipy alone would outweigh the runtime."""

from math import sqrt

Z95 = 1.959963984540054


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    >>> [round(bound, 4) for bound in wilson(250, 256)]
    [0.9498, 0.9892]
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, Z95**2
    centre = share + z2 / (2 * n)
    spread = Z95 * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (centre - spread) / (1 + z2 / n), (centre + spread) / (1 + z2 / n)
