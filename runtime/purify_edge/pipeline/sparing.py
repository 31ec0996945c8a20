"""Sparing clean images: one whose answer purification hardly changes keeps the classifier's own.

Purification moves the logits of an attacked image much further than those of a clean one. So most clean images can be
told apart and lose nothing. Weak attacks are spared too, and whoever knows the rule can aim at it: see docs/sparing.md.
"""

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.manifest import SpareEntry
from purify_edge.bundle.reader import Bundle
from purify_edge.errors import InputError
from purify_edge.pipeline.suspicion import Array, exceeded_by, suspicion_of

RATE = 0.05
"""The chance at most with which a clean image is not spared."""
KEPT = 0.75
"""The share that sparing must leave of the answers that are right to weakly attacked images."""


def require_threshold(bundle: Bundle) -> None:
    """Refuse a bundle that no clean images can be spared with.

    Raises:
        InputError: it has no threshold for it.
    """
    if bundle.manifest.spare is None:
        raise InputError(
            f"{bundle.path} has no threshold to spare clean images by: export it again, with 19 clean images or "
            'more beside the golden set (purify-export: --data names a folder with more); where it says "no '
            '--spare-clean", the rule does harm with this purifier'
        )


def change_of(unpurified: Array, purified: Array) -> Array:
    """Return how far purification moves the logits of N images, float32 `[N]`: std_k(z_k(x) - z_k(P(x))).

    Unlike the suspicion score it leaves out how sure the answer was: attacks that end at the border between two
    classes leave a classifier unsure, and must not be spared.
    """
    return suspicion_of(unpurified, purified, "logit-change")


def is_spared(unpurified: Array, purified: Array, entry: SpareEntry) -> NDArray[np.bool_]:
    """Return which of N images, by their logits `[N, K]` before and after purification, keep their own answer.

    An image whose logits are not finite is not spared.
    """
    spared: NDArray[np.bool_] = change_of(unpurified, purified) <= entry.threshold
    return spared


def spare(unpurified: Array, purified: Array, entry: SpareEntry) -> Array:
    """Return the logits `[N, K]` that answer N images, by those before and after purification."""
    return answering(is_spared(unpurified, purified, entry), unpurified, purified)


def answering(spared: NDArray[np.bool_], unpurified: Array, purified: Array) -> Array:
    """Return the logits `[N, K]` that answer: an image's own where it is spared, else those of the purified one."""
    return np.where(spared[:, None], unpurified, purified)


def does_harm(spared: int, purified: int) -> bool:
    """Return whether the rule costs too much: of weakly attacked images so many are right with it, so many without."""
    return spared < KEPT * purified


def calibrate_spare(unpurified: Array, purified: Array, *, source: str) -> SpareEntry | None:
    """Return the change that a new clean image exceeds with a chance of `RATE` at most; None for too few images.

    Args:
        unpurified, purified: logits `[N, K]` of clean images that nothing else was fitted to; it takes 19.
        source: where the images came from.
    """
    changes = change_of(unpurified, purified)
    threshold = exceeded_by(changes, RATE)
    if threshold is None:
        return None
    return SpareEntry(threshold=threshold, rate=RATE, n=int(np.isfinite(changes).sum()), images=source)
