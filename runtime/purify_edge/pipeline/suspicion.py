"""The suspicion score: how far purification moves an answer that the classifier was sure of.

Purification takes adversarial noise away, so it turns the answer of an attacked image and hardly that of a clean one.
It turns that of a noisy or dim image too, but there the classifier was not sure before, as it is of what an attack
makes of it. An attacker who knows the score can keep it low: it is a smoke detector, not a lock.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.manifest import Score, SuspicionEntry
from purify_edge.bundle.report import SuspicionReport, SuspicionSplit

Array = NDArray[np.float32]
Scores = NDArray[np.floating[Any]]
FALSE_POSITIVE_RATE = 0.01
BENIGN_RATE = 0.05
NEW: Score = "confident-change"
NOTHING: Mapping[str, Array] = {}
CLEAN = "clean"
BINS = 30


def suspicion_of(unpurified: Scores, purified: Scores, score: Score = NEW) -> Array:
    """Return the score of N images, float32 `[N]`: the logits' change times the margin of the answer before.

    With z(x) the classifier's K logits and P the purifier, `std_k(z_k(x) - z_k(P(x)))` is the change, and the margin
    what the largest of z(x) is above the second. A number added to all logits, which no probability shows, leaves both
    as they are. It is in the square of the logits' own unit, so it has a threshold a bundle.

    >>> suspicion_of(np.array([[1.0, 5.0]]), np.array([[3.0, 1.0]])).tolist()
    [12.0]

    Args:
        unpurified: logits `[N, K]` of the images as they came, K two at least.
        purified: logits `[N, K]` of the purified images.
        score: the bundle's; "logit-change", of older ones, is the change alone.
    """
    with np.errstate(invalid="ignore"):  # a score of logits that are not finite is NaN
        result: Array = (unpurified - purified).std(axis=1)
        if score == NEW:
            second, first = np.sort(unpurified, axis=1)[:, -2:].T
            result = result * (first - second)
    return result


def is_suspicious(scores: Array, threshold: float) -> NDArray[np.bool_]:
    """Return which scores `[N]` lie above the threshold; a score that is not a number counts as such."""
    return ~(scores <= threshold)


def calibrate(
    scores: Array, *, rate: float = FALSE_POSITIVE_RATE, source: str, benign: Mapping[str, Array] = NOTHING
) -> SuspicionEntry | None:
    """Return the threshold that a new clean image exceeds with a chance of `rate` at most; None for too few images.

    After each of the benign changes it is exceeded with a chance of `BENIGN_RATE` at most. Images without a score, NaN,
    are left out: they have no answer, and so count as suspicious at any threshold.

    Args:
        scores: `[N]`, of clean images that nothing else was fitted to; it takes 99 for a rate of 1%.
        rate: of false positives.
        source: where the images came from.
        benign: by change, scores of changed images; those of fewer than 19 are left out.
    """
    threshold = exceeded_by(scores, rate)
    if threshold is None:
        return None
    others = filter(None, (exceeded_by(changed, BENIGN_RATE) for changed in benign.values()))
    return SuspicionEntry(
        threshold=max([threshold, *others]),
        false_positive_rate=rate,
        n=int(np.isfinite(scores).sum()),
        images=source,
        score=NEW,
        benign_rate=BENIGN_RATE if benign else None,
    )


def exceeded_by(scores: Array, rate: float) -> float | None:
    """Return what a new score of the same kind exceeds with a chance of `rate` at most; None for too few scores.

    Of n scores it is the one in place `ceil((n + 1) (1 - rate))`, the smallest first: so the bound holds for every
    distribution and every n (split conformal prediction, Lei et al. 2018, doi:10.1080/01621459.2017.1307116).
    """
    finite = np.sort(scores[np.isfinite(scores)])
    place = math.ceil((len(finite) + 1) * (1 - rate) - 1e-9)
    return float(finite[place - 1]) if place <= len(finite) else None


def auroc(clean: Scores, other: Scores) -> float:
    """Return the area under the ROC curve: the chance that one of `other` scores above one of `clean`; a tie is half.

    >>> auroc(np.array([1, 2, 3, 4]), np.array([4, 5]))
    0.9375
    """
    order = np.sort(clean)
    below = np.searchsorted(order, other, "left") + np.searchsorted(order, other, "right")
    return float(below.mean() / (2 * len(order)))


def report_of(entry: SuspicionEntry, scores: Mapping[str, Array]) -> SuspicionReport:
    """Return the scores `[N]` of each split as fractions above the threshold, AUROC, and histograms over common edges.

    Edges grow by equal factors, and scores below the first count in the first bin; the threshold lies between them. A
    score that is not a number counts as the highest.
    """
    everything = np.concatenate(list(scores.values())).astype(np.float64)
    top = float(np.max(everything, where=np.isfinite(everything), initial=max(entry.threshold, 1e-6)))
    finite = {name: np.nan_to_num(found.astype(np.float64), nan=top, posinf=top) for name, found in scores.items()}
    lowest = min(float(found.min()) for found in finite.values())
    first = min(max(lowest, 1e-3 * top), 0.5 * top, entry.threshold if entry.threshold > 0 else top)
    edges = np.geomspace(first, 1.001 * top, BINS + 1)
    return SuspicionReport(
        threshold=entry.threshold,
        false_positive_rate=entry.false_positive_rate,
        n_calibration=entry.n,
        score=entry.score,
        benign_rate=entry.benign_rate,
        benign=entry.benign,
        edges=tuple(edges.tolist()),
        splits=tuple(
            SuspicionSplit(
                split=name,
                n=len(found),
                flagged=float(is_suspicious(scores[name], entry.threshold).mean()),
                auroc=auroc(finite[CLEAN], found) if CLEAN in finite and name != CLEAN else None,
                counts=tuple(np.histogram(found.clip(edges[0], edges[-1]), edges)[0].tolist()),
            )
            for name, found in finite.items()
        ),
    )
