"""Latency: the contestants interleaved round by round, after warm-up, so that drift of the machine hits all alike."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from purify_edge.bundle.report import LatencyRow

ROUNDS = 100
WARMUP = 5
WARMUP_S, BUDGET_S = 5.0, 15.0


class Contestant(NamedTuple):
    """What is timed: one stage, in one precision, by one engine, for one batch size."""

    engine: str
    precision: str
    stage: str
    batch: int


def measure(contestants: Mapping[Contestant, Callable[[], object]], *, rounds: int = ROUNDS) -> list[LatencyRow]:
    """Time each contestant's call once a round, A B C A B C ...; a row each, in their order.

    The percentiles are those of the timed calls (p50 is the median), in milliseconds. On a slow or busy machine
    there are fewer rounds than requested, and fewer to warm up: after BUDGET_S and WARMUP_S seconds no other begins.
    Each row says how many there were.
    """
    warmup, deadline = 0, time.monotonic() + WARMUP_S
    while warmup < WARMUP and (not warmup or time.monotonic() < deadline):
        for call in contestants.values():
            call()
        warmup += 1
    times_ms: dict[Contestant, list[float]] = {contestant: [] for contestant in contestants}
    deadline = time.monotonic() + BUDGET_S
    for turn in range(rounds):
        if turn and time.monotonic() > deadline:
            break
        for contestant, call in contestants.items():
            start = time.perf_counter_ns()
            call()
            times_ms[contestant].append((time.perf_counter_ns() - start) / 1e6)
    return [_row(contestant, values, warmup) for contestant, values in times_ms.items()]


def _row(contestant: Contestant, values: list[float], warmup: int) -> LatencyRow:
    p50, p90, p99 = (float(value) for value in np.percentile(values, [50, 90, 99]))
    return LatencyRow(
        **contestant._asdict(),
        n=len(values),
        warmup=warmup,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=float(np.mean(values)),
        images_per_s=1000 * contestant.batch / p50,
    )
