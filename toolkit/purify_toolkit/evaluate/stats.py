"""The statistics of an evaluation: counted images, and tests of two accuracies on the same images."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from purify_edge.stats import wilson

Correct = NDArray[np.bool_]
"""Which images are classified right, `[N]`."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A number of images of `n` that are classified right."""

    n: int
    correct: int

    @property
    def accuracy(self) -> float:
        """Fraction of the images."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95% Wilson score interval of the accuracy."""
        return wilson(self.correct, self.n)

    def as_dict(self) -> dict[str, Any]:
        """Return the content for JSON."""
        return asdict(self) | {"accuracy": self.accuracy, "ci95": self.interval}


def mcnemar(first: Correct, second: Correct) -> float:
    """Return the p-value of the exact two-sided McNemar test of equal accuracy on the same images.

    Only images that one of the two has right and the other wrong say anything; under equality they are
    a fair coin's throws (McNemar 1947).

    >>> mcnemar(np.ones(8, bool), np.zeros(8, bool))
    0.0078125
    """
    return _coin(int((first & ~second).sum()), int((second & ~first).sum()), "two-sided")


def p_of_rise(before: Correct, after: Correct) -> float:
    """Return the chance of so many more right answers in `after`, were there no true rise: a one-sided McNemar test.

    >>> p_of_rise(np.zeros(8, bool), np.ones(8, bool))
    0.00390625
    >>> p_of_rise(np.ones(8, bool), np.zeros(8, bool))
    1.0
    """
    return _coin(int((after & ~before).sum()), int((before & ~after).sum()), "greater")


def _coin(wins: int, losses: int, alternative: str) -> float:
    return float(binomtest(wins, wins + losses, 0.5, alternative=alternative).pvalue) if wins + losses else 1.0
