"""The bars: what the pipeline's speed is held against."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from lab.speed import contestants
from lab.speed.contestants import COMPILED, EAGER, HAND, LABELS, PREDICT, SGEMM, SGEMM_SIZE
from lab.speed.rounds import Row, ratios

FLAT = 1.05
"""Cost an image is flat where a larger batch's is not above a smaller one's by more than this."""
ROOFLINE = 2.0
COLD_START_S = 1.0
RESIDENT_MIB = 200.0
GROWTH_MIB = 1.0
OVERHEAD = 1.08
BEST_BY_HAND = "the best by hand"
OTHER_PRECISION = " in "
"""In the names of those by hand that compute in another precision than the graph's: they are shown, no more."""
AGAINST: tuple[tuple[int, str, float], ...] = (
    (1, EAGER, 0.20),
    (1, COMPILED, 0.45),
    (1, BEST_BY_HAND, 1.0),
    (64, BEST_BY_HAND, 1.0),
    (64, COMPILED, 0.9),
)
"""Batch, the other, and the largest ratio of our time to the other's."""

Table = Mapping[tuple[str, int], Row]


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """Something that must hold."""

    name: str  # what is measured
    value: float | None  # what was found; None where it was not measured
    limit: float  # the largest that holds
    passed: bool | None  # whether it holds; None where it was not measured
    # the quartiles of a ratio over the rounds; None for what is no such ratio
    spread: tuple[float, float] | None = None
    reason: str = ""  # why it was not measured


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """What separate processes took."""

    cold_start_s: tuple[float, ...]  # seconds from the start of `purify-run` on one image to its end, a value each time
    resident_mib: float  # resident memory of a process with the pipeline, after batches of 1 and 64
    soak_calls: int = 0  # predictions that a process made, in batches of random size; 0 for no soak
    # how much its resident memory grew over the last nine tenths of them; None without a soak
    growth_mib: float | None = None


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark: the machine, what was tuned, the rows, the bars."""

    environment: dict[str, Any]
    bundle: str
    precision: str
    settings: str  # what the pipeline runs, by size of batch
    flop: int | None  # floating-point operations of an image; None where the bundle does not tell
    busy: bool  # whether another process kept a core busy meanwhile
    rows: tuple[Row, ...]
    process: Process | None
    bars: tuple[Bar, ...]
    not_run: dict[str, str]


def encode_bench(bench: Bench) -> bytes:
    """Return the benchmark as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(bench), indent=2) + b"\n"


def bars_of(
    rows: Sequence[Row], flop: int | None, process: Process | None, not_run: Mapping[str, str]
) -> Iterator[Bar]:
    """Yield every bar, those that were not measured too."""
    table = {(row.contestant, row.batch): row for row in rows}
    for who in (LABELS, PREDICT):
        for batch, other, limit in AGAINST:
            name = f"{who}, batch {batch}, against {other}"
            reason = not_run.get(other, f"batch {batch} was not run")
            yield _ratio(name, table.get((who, batch)), _other(table, other, batch), limit, reason)
        bare = {LABELS: contestants.BARE_LABELS, PREDICT: contestants.BARE_PREDICT}[who]
        name = f"{who}, batch 1, against its engine alone"
        yield _ratio(name, table.get((who, 1)), table.get((bare, 1)), OVERHEAD, "batch 1 was not run")
    yield _flat(table)
    yield from _roofline(table, flop)
    yield from _process(process)


def _other(table: Table, other: str, batch: int) -> Row | None:
    if other != BEST_BY_HAND:
        return table.get((other, batch))
    by_hand = [
        row
        for (name, size), row in table.items()
        if name.startswith(HAND) and size == batch and OTHER_PRECISION not in name
    ]
    return min(by_hand, key=lambda row: row.p50_ms, default=None)


def bar(
    name: str, value: float | None, limit: float, *, reason: str = "", spread: tuple[float, float] | None = None
) -> Bar:
    """Return a bar that holds up to its limit; the reason says why there is no value."""
    passed = None if value is None else value <= limit
    return Bar(
        name=name, value=value, limit=limit, passed=passed, spread=spread, reason=reason if value is None else ""
    )


def _ratio(name: str, ours: Row | None, other: Row | None, limit: float, reason: str) -> Bar:
    if ours is None or other is None:
        return bar(name, None, limit, reason=reason)
    low, value, high = ratios(ours.rounds_ms, other.rounds_ms)
    if BEST_BY_HAND in name:
        name += f" ({other.contestant.removeprefix(HAND)})"
    return bar(name, value, limit, spread=(low, high))


def _flat(table: Table) -> Bar:
    """Return the largest factor by which a larger batch costs more an image than the one before it."""
    name = "labels, cost an image: largest rise from one batch to the next"
    costs = [row.ms_per_image for (who, _), row in sorted(table.items(), key=lambda item: item[0][1]) if who == LABELS]
    if len(costs) < 2:
        return bar(name, None, FLAT, reason="one batch only was run")
    return bar(name, float(np.max(np.array(costs[1:]) / np.array(costs[:-1]))), FLAT)


def _roofline(table: Table, flop: int | None) -> Iterator[Bar]:
    """Yield our time over what the same operations take as a matrix product of the same run."""
    for batch in sorted({batch for who, batch in table if who == LABELS}):
        name = f"labels, batch {batch}, against the roofline"
        ours, sgemm = table[LABELS, batch], table.get((SGEMM, batch))
        if flop is None or sgemm is None:
            yield bar(name, None, ROOFLINE, reason="the bundle does not tell its operations: export it again")
            continue
        share = flop * batch / (2 * SGEMM_SIZE**3)
        low, value, high = (ratio / share for ratio in ratios(ours.rounds_ms, sgemm.rounds_ms))
        yield bar(name, value, ROOFLINE, spread=(low, high))


def _process(process: Process | None) -> Iterator[Bar]:
    cold_start_s = float(np.median(process.cold_start_s)) if process else None
    resident_mib, growth_mib = (process.resident_mib, process.growth_mib) if process else (None, None)
    reason = "no --soak" if process else "--no-process"
    yield bar("purify-run on one image, from start to end, in s", cold_start_s, COLD_START_S, reason=reason)
    yield bar("resident memory with the pipeline, in MiB", resident_mib, RESIDENT_MIB, reason=reason)
    yield bar("growth of resident memory in the soak, in MiB", growth_mib, GROWTH_MIB, reason=reason)
