"""What a pipeline says of images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_ANSWER = "the classifier's answer is not finite"


@dataclass(frozen=True)
class Prediction:
    """What the pipeline says of N images.

    Attributes:
        labels: int64 `[N]`, the most probable classes; -1 for an image whose logits are not finite: it has no answer.
        probabilities: float32 `[N, K]`, each row sums to 1; NaN where there is no answer.
        purified: float32 `[N, C, H, W]` in [0, 1], what the purifier made of the images.
        unpurified: float32 `[N, K]`, the classifier's probabilities of the images as they came.
        suspicion: float32 `[N]`, how far purification moved the classifier's logits; see `pipeline.suspicion`.
        suspicious: bool `[N]`, which images score above the bundle's threshold: probably attacked, or not what the
            purifier was trained on. An attacker who knows the score can keep it low.
        spared: bool `[N]`, which images keep the classifier's own answer, see `pipeline.sparing`; the labels and
            probabilities of the others are of the purified images.

    `suspicion` and `suspicious` are None where the bundle has no threshold, or the pipeline was loaded with
    `suspicion=False`; `spared` is None without `spare_clean=True`, and `unpurified` where all of these are.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    purified: NDArray[np.float32]
    unpurified: NDArray[np.float32] | None = None
    suspicion: NDArray[np.float32] | None = None
    suspicious: NDArray[np.bool_] | None = None
    spared: NDArray[np.bool_] | None = None

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Return for which images, bool `[N]`, everything that is said is finite."""
        answered: NDArray[np.bool_] = (self.labels >= 0) & np.isfinite(self.purified).all(axis=(1, 2, 3))
        if self.unpurified is not None:
            answered &= np.isfinite(self.unpurified).all(axis=1)
        return answered if self.suspicion is None else answered & np.isfinite(self.suspicion)


def answers_of(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the classes `[N]` that logits `[N, K]` name; -1, which agrees with no label, where one is not finite."""
    return np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities `[N, K]` from logits `[N, K]`; NaN in the rows that are not finite."""
    finite = np.isfinite(logits).all(axis=1, keepdims=True)
    logits = np.where(finite, logits, np.float32(np.nan))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result
