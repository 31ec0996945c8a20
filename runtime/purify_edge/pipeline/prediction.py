"""What a pipeline says of images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """What the pipeline says of N images.

    Attributes:
        labels: int64 `[N]`, the most probable classes.
        probabilities: float32 `[N, K]`, each row sums to 1.
        purified: float32 `[N, C, H, W]` in [0, 1], what the classifier saw.
        unpurified: float32 `[N, K]`, the classifier's probabilities of the images as they came.
        suspicion: float32 `[N]`, how far purification moved the classifier's logits; see `pipeline.suspicion`.
        suspicious: bool `[N]`, which images score above the bundle's threshold: probably attacked, or not what the
            purifier was trained on. An attacker who knows the score can keep it low.

    The last three are None where the bundle has no threshold, or the pipeline was loaded with `suspicion=False`.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    purified: NDArray[np.float32]
    unpurified: NDArray[np.float32] | None = None
    suspicion: NDArray[np.float32] | None = None
    suspicious: NDArray[np.bool_] | None = None


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities `[N, K]` from logits `[N, K]`."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result
