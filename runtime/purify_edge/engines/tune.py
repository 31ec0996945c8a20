"""Tuning: which engine, graph and use of the cores is the fastest here, found by trying, for each size of batch."""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from purify_edge.engines import HostOptions

Array = NDArray[np.float32]
Call = Callable[[Array], object]

BATCHES = (1, 8, 64)
"""The sizes that are tuned; another takes the settings of the one nearest to it, by ratio."""
SHARES = (1, 1, 2)
"""How the time is shared out among them."""
BUDGET_S = 2.0
OPENING_SHARE = 0.4
"""What part of the budget opening sessions may take; candidates that come later are left out."""
TOLERANCE = 1.25
"""How much slower than the best a setting may be while another program keeps one core busy."""
HOPELESS = 2.0
"""Candidates that are slower than the best by this factor in their first calls are not tried again."""
LEAST_CALLS = 5
"""That a candidate makes of a batch, at least; so many candidates are tried as there is time for."""
CHAINED_SHARE = 0.35
"""What part of a size's time goes into chained graphs."""
FINALISTS = 3
"""So many settings, the best ones with the composed graph, are tried with chained graphs too: two sessions may get in
each other's way where one is the fastest."""
CHAINED_BELOW = 0.97
"""The ratio of times from which on the chained graphs are taken to be faster by more than chance."""
CALLS = 5
ALL = 0
"""As many as there are cores. Threads are then the library's own choice: ONNX Runtime ties these to cores, and its
calls were up to 1.6 times as fast as with as many that it was told of, two of which may wait for one core."""


class Setting(msgspec.Struct, frozen=True):
    """How to run a batch.

    Attributes:
        engine: a key of ENGINES.
        threads: that work on one call; ALL for the library's choice.
        spinning: see `HostOptions`.
        workers: calls at once, each with a part of the batch.
        graph: `composed`, or purifier and classifier `chained`.
        pinned: see `HostOptions`.
    """

    engine: str
    threads: int
    spinning: Literal["call", "never"] = "never"
    workers: int = 1
    graph: Literal["composed", "chained"] = "composed"
    pinned: bool = False

    @property
    def host(self) -> HostOptions:
        """What the engine is told."""
        return HostOptions(
            threads=self.threads or None, spinning=self.spinning, side_by_side=self.workers, pinned=self.pinned
        )

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}" if self.threads else "all cores"
        awake = {"call": ", awake within a call", "never": ""}[self.spinning]
        beside = f", {self.workers} calls at once" if self.workers > 1 else ""
        return f"{self.engine}, {threads}{', pinned' if self.pinned else ''}{awake}{beside}, {self.graph}"


class Choice(msgspec.Struct, frozen=True):
    """How to run a size of batch.

    Attributes:
        logits: where these alone are wanted.
        both: where the purified images are wanted too, or one of the networks; its graph is always chained.
    """

    logits: Setting
    both: Setting

    def __str__(self) -> str:
        return str(self.both) if self.logits == self.both else f"{self.logits}, for purified images {self.both}"


TABLE: tuple[Setting, ...] = (
    Setting("onnxruntime", ALL, "call"),
    Setting("openvino", ALL, pinned=True),
    Setting("openvino", 1, workers=ALL),
    Setting("onnxruntime", 1, workers=ALL),
    Setting("openvino", ALL),
    Setting("onnxruntime", 1),
    Setting("openvino", 1),
    Setting("onnxruntime", ALL),
)
"""The candidates; the most promising first, for a large model leaves time to open only a few."""


class Found(NamedTuple):
    """What tuning one size of batch found, and the milliseconds that its logits take on a calm machine."""

    choice: Choice
    calm_ms: float


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def candidates(engines: Sequence[str], n: int) -> list[Setting]:
    """The table for n cores and the engines that are here, without repetition."""
    filled = (
        msgspec.structs.replace(row, threads=1 if n == 1 else row.threads, workers=row.workers or n)
        for row in TABLE
        if row.engine in engines
    )
    return list(dict.fromkeys(filled))


def nearest(batch: int, tuned: Sequence[int]) -> int:
    """The tuned size that is nearest to a batch's, by ratio.

    >>> [nearest(batch, (1, 8, 64)) for batch in (1, 2, 3, 22, 23, 300)]
    [1, 1, 8, 8, 64, 64]
    """
    return min(tuned, key=lambda size: abs(math.log(batch / size)))


def tune(
    opened: Callable[[Setting], Call],
    names: Sequence[Setting],
    image_shape: tuple[int, int, int],
    *,
    budget_s: float = BUDGET_S,
) -> dict[int, Found]:
    """Try candidates for every size of batch.

    Args:
        opened: makes a setting's call, images `[N, C, H, W]` in, which it opens its engines for.
        names: the candidates, the most promising first.
        image_shape: C, H, W.
        budget_s: seconds to take.

    Returns:
        For each size of batch the settings that are the fastest on a calm machine, among those that with the composed
        graph are not slower than the best by more than TOLERANCE while one core is taken.
    """
    start = time.monotonic()
    deadline = start + budget_s
    calls = dict(_open(opened, names, start + OPENING_SHARE * budget_s))
    found: dict[int, Found] = {}
    for index, batch in enumerate(BATCHES):
        x = np.random.default_rng(0).random((batch, *image_shape), np.float32)
        left = deadline - time.monotonic()
        if found:
            last, before = found[BATCHES[index - 1]], BATCHES[index - 1]
            fit = int(left / (LEAST_CALLS * last.calm_ms / 1e3 * batch / before))
            if fit < 2:  # too slow to be tried: what a smaller batch found is the best guess
                found[batch] = last
                continue
            calls = dict(list(calls.items())[:fit])
        end = time.monotonic() + left * SHARES[index] / sum(SHARES[index:])
        ranked = choose(*_measure(calls, x, (1 - CHAINED_SHARE) * (end - time.monotonic())))
        found[batch] = _with_chained(ranked, calls, opened, x, end)
        calls = {setting: calls[setting] for setting in dict.fromkeys([*ranked, *calls])}  # the most promising first
    return found


def _open(
    opened: Callable[[Setting], Call], names: Sequence[Setting], deadline: float
) -> Iterator[tuple[Setting, Call]]:
    for index, setting in enumerate(names):
        if index and time.monotonic() > deadline:
            return
        yield setting, opened(setting)


def _with_chained(
    ranked: Sequence[Setting], calls: Mapping[Setting, Call], opened: Callable[[Setting], Call], x: Array, end: float
) -> Found:
    """The best of the settings with the composed graph, and the best of the first few with chained graphs."""
    finalists = [msgspec.structs.replace(setting, graph="chained") for setting in ranked[:FINALISTS]]
    chained = dict(_open(opened, finalists, (time.monotonic() + end) / 2))
    contest = {ranked[0]: calls[ranked[0]], **chained}
    for call in contest.values():
        call(x)
    times = {setting: np.array(values) for setting, values in _rounds(contest, x, end - time.monotonic()).items()}
    both = min(chained, key=lambda setting: float(np.median(times[setting])))
    faster = float(np.median(times[both] / times[ranked[0]])) < CHAINED_BELOW
    logits = both if faster else ranked[0]
    return Found(Choice(logits, both), float(np.median(times[logits])))


Times = dict[Setting, float]


def choose(calm_ms: Times, busy_ms: Times) -> list[Setting]:
    """Those that hold when the machine is not calm, the fastest when it is first."""
    limit = TOLERANCE * min(busy_ms.values())
    return sorted((setting for setting in calm_ms if busy_ms[setting] <= limit), key=lambda setting: calm_ms[setting])


def _measure(calls: Mapping[Setting, Call], x: Array, seconds: float) -> tuple[Times, Times]:
    """Milliseconds of each candidate for the batch: the medians while calm, and while one core is taken.

    A median, for a few calls at a time show by the mean only which of them another program happened to interrupt.
    """
    first = {
        setting: min(_timed(call, x, 2 if len(x) < BATCHES[-1] else 1, warm=True)) for setting, call in calls.items()
    }
    worth = {setting: calls[setting] for setting in first if first[setting] <= HOPELESS * min(first.values())}
    calm = _rounds(worth, x, seconds / 2)
    with one_core_busy():
        busy = _rounds(worth, x, seconds / 2)
    return (
        {setting: float(np.median(values)) for setting, values in calm.items()},
        {setting: float(np.median(values)) for setting, values in busy.items()},
    )


def _rounds(calls: Mapping[Setting, Call], x: Array, seconds: float) -> dict[Setting, list[float]]:
    times: dict[Setting, list[float]] = {setting: [] for setting in calls}
    deadline = time.monotonic() + seconds
    while True:
        for setting, call in calls.items():
            times[setting] += _timed(call, x, CALLS if len(x) == 1 else 1, warm=len(x) == 1)
        if time.monotonic() > deadline:
            return times


def _timed(call: Call, x: Array, count: int, *, warm: bool) -> list[float]:
    """Milliseconds of some calls in a row; `warm`: after one that is not timed, in which others' threads calm down."""
    if warm:
        call(x)
    times = []
    for _ in range(count):
        start = time.perf_counter_ns()
        call(x)
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


@contextmanager
def one_core_busy() -> Iterator[None]:
    """Keep one core busy, as another program would."""
    stop, content = Event(), bytes(1 << 20)

    def work() -> None:
        while not stop.is_set():
            hashlib.sha256(content)  # without Python's lock, for some 0.5 ms

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
