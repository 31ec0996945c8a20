"""Rounds: every contestant once a round, so that the machine's drift hits all alike, in an order drawn anew each time.

In a fixed order each would always follow the same other one, whose heat and clock it would be measured with.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Call = Callable[[Images], object]
SETTLE_S = 0.04
"""Before each contestant's turn: the threads of the one before stay awake for a while (OpenBLAS's for 30 ms), and
would take its cores."""
IN_A_ROW_MS = 10.0
MAX_IN_A_ROW = 10
"""A contestant makes as many calls a round as the reference makes in IN_A_ROW_MS, but one at least, and no more than
this."""
AWAKE_S = 0.02
"""How long a contestant runs before its calls are timed: the scheduler may have woken two of its threads on one core,
and parts them after some milliseconds only."""
WARMUP = 3
ROUND_S = 0.15
"""Before each round: the matrix product, which ends every round, keeps its threads awake the longest."""
SEED = 0
"""Of the order of the contestants."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """How long one contestant took for a batch of uint8 images."""

    contestant: str  # its name
    batch: int  # images
    n: int  # rounds
    calls: int  # timed calls a round, after one that is not
    # p50_ms and p90_ms: of the rounds' times, in milliseconds; a round's is the median of `calls` calls in a row
    p50_ms: float
    p90_ms: float
    ratio: float  # ratio and ratio_quartiles: to REFERENCE's time in the same round, the median and the quartiles
    ratio_quartiles: tuple[float, float]
    ms_per_image: float  # p50_ms over the batch
    rounds_ms: tuple[float, ...]  # the rounds' times


def measure(calls: Mapping[str, Call], images: Images, *, rounds: int, budget_s: float, reference: str) -> list[Row]:
    """Time every contestant on a batch, a row each.

    Args:
        calls: contestants by name; the last one ends every round.
        images: the batch, uint8 `[N, H, W, C]`.
        rounds: at most; there are fewer where `budget_s` seconds are over before, but at least three.
        budget_s: see there.
        reference: whose time the ratios are to.
    """
    batch = len(images)
    for call in calls.values():
        for _ in range(WARMUP):
            call(images)
    once_ms = min(_times_ms(calls[reference], images, WARMUP))
    in_a_row = max(1, min(MAX_IN_A_ROW, int(IN_A_ROW_MS / max(once_ms, 1e-6))))
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    *shuffled, last = calls
    order = np.random.default_rng(SEED)
    deadline = time.monotonic() + budget_s
    for turn in range(rounds):
        if turn >= 3 and time.monotonic() > deadline:
            break
        time.sleep(ROUND_S)
        for name in (*order.permutation(shuffled).tolist(), last):
            times_ms[name].append(_turn(calls[name], images, in_a_row))
    return [_row(name, batch, in_a_row, values, times_ms[reference]) for name, values in times_ms.items()]


def _turn(call: Call, images: Images, in_a_row: int) -> float:
    time.sleep(SETTLE_S)
    awake = time.monotonic() + AWAKE_S
    call(images)
    while time.monotonic() < awake:
        call(images)
    return float(np.median(_times_ms(call, images, in_a_row)))


def _times_ms(call: Call, images: Images, count: int) -> list[float]:
    times = []
    for _ in range(count):
        start = time.perf_counter_ns()
        call(images)
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def _row(name: str, batch: int, calls: int, values: list[float], reference: list[float]) -> Row:
    low, ratio, high = ratios(values, reference)
    p50, p90 = (float(value) for value in np.percentile(values, [50, 90]))
    return Row(
        contestant=name,
        batch=batch,
        n=len(values),
        calls=calls,
        p50_ms=p50,
        p90_ms=p90,
        ratio=ratio,
        ratio_quartiles=(low, high),
        ms_per_image=p50 / batch,
        rounds_ms=tuple(values),
    )


def ratios(values: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile of the ratios round by round."""
    low, middle, high = np.percentile(np.array(values) / np.array(others), [25, 50, 75])
    return float(low), float(middle), float(high)
