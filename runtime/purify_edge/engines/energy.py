"""Energy: what each contestant takes for an image, by the meters that this machine has."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from purify_edge.bundle.report import EnergyRow
from purify_edge.engines.latency import Contestant
from purify_edge.power.base import Meter

SETTLE_S = 1.0
"""Between the last call and the measurement of idle power: threads that spin, and clocks, come down first."""
IDLE_S = 2.0
ROW_S = 2.0
"""Of calls in a row, for each contestant: a GPU's counter may move ten times a second only."""

Readings = dict[str, float | str]
"""Name of a meter -> its joules so far, or why it cannot be read."""


def measure_energy(
    contestants: Mapping[Contestant, Callable[[], object]], meters: Sequence[Meter], devices: Mapping[str, str]
) -> tuple[list[EnergyRow], list[str]]:
    """Run each contestant in a row for ROW_S seconds, after IDLE_S seconds of rest, and read all meters beside it.

    The meter of a GPU is read for engines that run there.

    Args:
        contestants: what to run; warm from having been timed.
        meters: what to read.
        devices: engine -> device; what is not in it may be anywhere.

    Returns:
        A row for each contestant and meter, and a line for each meter that failed, or that stands still.
    """
    with ExitStack() as stack:
        opened = {meter.name: stack.enter_context(meter) for meter in meters}
        time.sleep(SETTLE_S)
        before, begin = _read(opened), time.perf_counter()
        time.sleep(IDLE_S)
        used, idle_s = _used(before, _read(opened)), time.perf_counter() - begin
        failed = [f"{name}: {reason}" for name, reason in used.items() if isinstance(reason, str)]
        idle_w = {name: value / idle_s for name, value in used.items() if not isinstance(value, str)}
        rows: list[EnergyRow] = []
        for contestant, call in contestants.items():
            on_gpu = devices.get(contestant.engine, "cuda").startswith("cuda")
            asked = {name: opened[name] for name in idle_w if on_gpu or opened[name].part != "gpu"}
            rows += _rows(contestant, call, asked, idle_w, failed)
    return rows, failed


def _rows(
    contestant: Contestant,
    call: Callable[[], object],
    meters: Mapping[str, Meter],
    idle_w: dict[str, float],
    failed: list[str],
) -> list[EnergyRow]:
    """Run one contestant; a meter that fails is left out from then on."""
    calls, before, begin = 0, _read(meters), time.perf_counter()
    while not calls or time.perf_counter() - begin < ROW_S:
        call()
        calls += 1
    after, seconds = _read(meters), time.perf_counter() - begin
    rows = []
    for name, joules in _used(before, after).items():
        if isinstance(joules, str):
            failed.append(f"{name}: {joules}")
            del idle_w[name]
            continue
        images = calls * contestant.batch
        row = EnergyRow(
            **contestant._asdict(),
            meter=name,
            n=calls,
            seconds=seconds,
            mj_per_image=1000 * joules / images,
            mj_per_image_above_idle=1000 * (joules - idle_w[name] * seconds) / images,
            power_w=joules / seconds,
            idle_w=idle_w[name],
        )
        rows.append(row)
    return rows


def _read(meters: Mapping[str, Meter]) -> Readings:
    found: Readings = {}
    for name, meter in meters.items():
        try:
            found[name] = meter.joules()
        except (OSError, ValueError) as error:
            found[name] = f"not readable: {error}"
    return found


def _used(before: Readings, after: Readings) -> Readings:
    """Return the joules between two readings, or what is wrong with a meter."""
    found: Readings = {}
    for name, end in after.items():
        start = before[name]
        if isinstance(start, str) or isinstance(end, str):
            found[name] = start if isinstance(start, str) else end
        elif end <= start:
            found[name] = "stands still, as in virtual machines: it counts nothing"
        else:
            found[name] = end - start
    return found
