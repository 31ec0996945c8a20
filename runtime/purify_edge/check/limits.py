"""The limits of a check: what must hold of agreement, accuracy, error, suspicion and latency."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.manifest import SuspicionEntry
from purify_edge.bundle.report import Check, LatencyRow, ParityRow
from purify_edge.pipeline.suspicion import is_suspicious, suspicion_of
from purify_edge.stats import wilson

Array = NDArray[np.float32]
MIN_AGREEMENT = {"fp32": 0.995, "fp16": 0.995, "bf16": 0.95, "int8": 0.95}
"""The smallest agreement, by precision. Fewer bits turn images that lie between two classes, either way: there
accuracy decides."""
MAX_ERROR = {"fp32": 1e-4, "tf32": 0.005, "fp16": 0.01, "bf16": 0.1, "int8": 0.1}
"""The largest `relative_error`, by precision. GPUs may multiply float32 in TF32, which has float16's precision."""
NOISE = "noise"
BY_INTERVAL = " by its interval"
"""Of so few images that a single one breaks the limit, the limit is broken where the 95% interval lies beyond it."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What must hold of engine against reference, as fractions; a violated limit fails the check."""

    min_agreement: float | None = None  # golden images of the same class; None for that in MIN_AGREEMENT
    max_accuracy_drop: float = 0.01  # on clean and attacked images; on noisy ones agreement and error decide
    max_error: float | None = None  # see `relative_error`; None for that of the precision in MAX_ERROR
    max_flagged_change: float = 0.02  # of the fraction of a split's images that are called suspicious
    max_latency_ms: float | None = None  # median, of the pipeline at batch 1


def checks_of(parity: Iterable[ParityRow], latency: Iterable[LatencyRow], limits: Limits) -> Iterable[Check]:
    """Yield the limits of error, agreement and accuracy and, where one is set, of latency."""
    for row in parity:
        where = f"{row.engine} {row.precision} {row.role} {row.split}"
        for name, error in (("relative error", row.relative_error), ("relative error alone", row.alone_error)):
            if error is not None:
                multiplied = "tf32" if row.precision == "fp32" and row.device != "cpu" else row.precision
                limit = MAX_ERROR[multiplied] if limits.max_error is None else limits.max_error
                yield at_most(f"{name}, {where}", error, limit)
        if row.agreement is None or row.accuracy_engine is None or row.accuracy_reference is None:
            continue
        least = MIN_AGREEMENT[row.precision] if limits.min_agreement is None else limits.min_agreement
        yield agreement(row.agreement, row.n, least, where)
        if row.split != NOISE:
            drop = row.accuracy_reference - row.accuracy_engine
            yield share_at_most("accuracy drop", where, drop, limits.max_accuracy_drop, row.n)
    if limits.max_latency_ms is None:
        return
    for timed in latency:
        if (timed.stage, timed.batch) == ("pipeline", 1):
            name = f"median latency in ms, {timed.engine} {timed.precision} pipeline, batch 1"
            yield at_most(name, timed.p50_ms, limits.max_latency_ms)


def suspicion_checks(
    entry: SuspicionEntry, golden: Mapping[str, GoldenSplit], scores: Mapping[str, Array], limits: Limits, *, where: str
) -> Iterable[Check]:
    """Yield the limits of how many images an engine calls suspicious, by its scores `[N]` of each split."""
    for name, split in golden.items():
        expected = is_suspicious(suspicion_of(split.classifier, split.defended, entry.score), entry.threshold).mean()
        change = abs(is_suspicious(scores[name], entry.threshold).mean() - expected)
        what = f"{where} pipeline {name}"
        yield share_at_most("change of what is suspicious", what, float(change), limits.max_flagged_change, len(split))


def agreement(value: float, n: int, least: float, where: str) -> Check:
    """Return the check that enough of n images have PyTorch's class; `value` is the share that has."""
    name, passed = "agreement", value >= least
    if not passed and 0 <= n * (1 - least) < 1:
        name, passed = f"agreement{BY_INTERVAL}", wilson(round(value * n), n)[1] >= least
    return Check(name=f"{name}, {where}", value=value, limit=least, passed=passed)


def share_at_most(name: str, where: str, share: float, limit: float, n: int) -> Check:
    """Return the check of a share of n images: by its interval where a single one breaks the limit, see BY_INTERVAL.

    The share is that of whole images, or the rounding of two shares' difference would break a limit that it just keeps.
    """
    share = round(share * n) / n if isfinite(share) else share
    check = at_most(f"{name}, {where}", share, limit)
    if check.passed or not 0 <= share <= 1 or n * limit >= 1:
        return check
    lowest = wilson(round(share * n), n)[0]
    return Check(name=f"{name}{BY_INTERVAL}, {where}", value=share, limit=limit, passed=lowest <= limit)


def at_most(name: str, value: float, limit: float) -> Check:
    """Return a check, which fails where the value is not a number."""
    return Check(name=name, value=value, limit=limit, passed=value <= limit)
