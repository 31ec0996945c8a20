"""What a benchmark found, as `python -m lab.speed --json` prints it."""

from typing import Any

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """How long one contestant took for a batch of uint8 images.

    Attributes:
        contestant: its name.
        batch: images.
        n: rounds.
        p50_ms, p90_ms: of the rounds' times, in milliseconds; a round's is the median of `calls` calls in a row.
        calls: timed calls a round, after one that is not.
        ratio, ratio_quartiles: to REFERENCE's time in the same round, the median and the quartiles.
        ms_per_image: p50_ms over the batch.
        rounds_ms: the rounds' times.
    """

    contestant: str
    batch: int
    n: int
    calls: int
    p50_ms: float
    p90_ms: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    ms_per_image: float
    rounds_ms: tuple[float, ...]


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """Something that must hold.

    Attributes:
        name: what is measured.
        value: what was found; None where it was not measured.
        limit: the largest that holds.
        passed: whether it holds; None where it was not measured.
        spread: the quartiles of a ratio over the rounds; None for what is no such ratio.
        reason: why it was not measured.
    """

    name: str
    value: float | None
    limit: float
    passed: bool | None
    spread: tuple[float, float] | None = None
    reason: str = ""


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """What processes of their own took.

    Attributes:
        cold_start_s: seconds from the start of `purify-run` on one image to its end, a value each time.
        resident_mib: resident memory of a process with the pipeline, after batches of 1 and 64.
        soak_calls: predictions that a process made, in batches of random size; 0 for no soak.
        growth_mib: how much its resident memory grew over the last nine tenths of them; None without a soak.
    """

    cold_start_s: tuple[float, ...]
    resident_mib: float
    soak_calls: int = 0
    growth_mib: float | None = None


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark: the machine, what was tuned, the rows, the bars.

    Attributes:
        settings: what the pipeline runs, by size of batch.
        flop: floating-point operations of an image; None where the bundle does not tell.
        busy: whether another process kept a core busy meanwhile.
    """

    environment: dict[str, Any]
    bundle: str
    precision: str
    settings: str
    flop: int | None
    busy: bool
    rows: tuple[Row, ...]
    process: Process | None
    bars: tuple[Bar, ...]
    not_run: dict[str, str]


def encode_bench(bench: Bench) -> bytes:
    """Return the benchmark as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(bench), indent=2) + b"\n"
