"""The benchmark: every engine and precision that works here, in turn, and what runs by itself, over many calls."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import LatencyRow, NotChecked, Plan
from purify_edge.check.check import ALL, open_sets, some_images
from purify_edge.engines.latency import ROUNDS, Contestant, measure
from purify_edge.engines.plan import AUTO
from purify_edge.engines.tensorrt.store import EnginePolicy
from purify_edge.images.arrays import as_batch
from purify_edge.machine import environment
from purify_edge.pipeline.pipeline import Pipeline

BATCHES = (1, 8, 64)
SOAK_BATCHES = 8
"""The soak's batches are of 1 to this many images."""


class SoakResult(msgspec.Struct, frozen=True, kw_only=True):
    """Many predictions in a row, of golden images in batches of random size.

    Attributes:
        calls: predictions.
        wrong: images that got another label than when they were first asked about.
        growth_mib: how much the process's memory grew over the last nine tenths of the calls; None where the system
            does not tell.
    """

    calls: int
    wrong: int
    growth_mib: float | None


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """What was timed, and what a pipeline takes by itself."""

    environment: dict[str, Any]
    plan: Plan | None
    latency: tuple[LatencyRow, ...]
    not_run: tuple[NotChecked, ...]
    soak: SoakResult | None = None


def benchmark(
    bundle: Bundle,
    *,
    engine: str = ALL,
    precisions: Sequence[str] = (),
    batches: Sequence[int] = BATCHES,
    rounds: int = ROUNDS,
    policy: EnginePolicy | None = None,
    soak: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Benchmark:
    """Time engines, precisions and batches, interleaved round by round.

    Args:
        bundle: the bundle.
        engine: `all`, `auto` or a key of ENGINES.
        precisions: those to time; empty for all that the bundle has.
        batches: sizes of batch.
        rounds: timed calls of each contestant, at most.
        policy: what may be done about engine files.
        soak: predictions of the soak, 0 for none.
        tell: gets a line for each step.

    Raises:
        BundleError, InputError, MissingError: see `open_plan` and `load_golden`.
    """
    golden = load_golden(bundle)
    with ExitStack() as stack:
        opened = open_sets(bundle, engine, precisions or (AUTO, ALL), stack, policy, golden)
        images = as_batch(some_images(golden["clean"], max(batches)), bundle.manifest.input)
        contestants: dict[Contestant, Callable[[], object]] = {}
        for batch in batches:
            for engines in opened.sets:
                for stage in ("pipeline", "defended"):
                    contestant = Contestant(engines.engine, engines.precision, stage, batch)
                    contestants[contestant] = _call(engines.stages[stage], images[:batch])
        tell(f"timing {len(contestants)} contestants")
        latency = measure(contestants, rounds=rounds)
        versions = {"purify-edge": version("purify-edge")} | {found.engine: found.version for found in opened.sets}
    if soak:
        tell(f"soak: {soak} predictions")
    return Benchmark(
        environment=environment(versions),
        plan=opened.plan,
        latency=tuple(latency),
        not_run=tuple(opened.not_checked),
        soak=soak_of(bundle, golden, soak, engine=engine, precisions=precisions, policy=policy) if soak else None,
    )


def _call(run: Callable[[Any], object], x: Any) -> Callable[[], object]:
    return lambda: run(x)


def soak_of(
    bundle: Bundle,
    golden: Mapping[str, GoldenSplit],
    calls: int,
    *,
    engine: str,
    precisions: Sequence[str],
    policy: EnginePolicy | None,
) -> SoakResult:
    """Make so many predictions, and look at their answers and at the memory.

    They are made in the requested precision, if it is one precision, else in the one that `purify-run` takes.
    """
    images, random, wrong = golden["clean"].images, np.random.default_rng(0), 0
    early: float | None = None
    named, precision = AUTO if engine == ALL else engine, precisions[0] if len(precisions) == 1 else AUTO
    with Pipeline.load(bundle, engine=named, precision=precision, policy=policy) as pipeline:
        expected = pipeline.predict(images).labels
        for call in range(calls):
            chosen = random.integers(len(images), size=1 + random.integers(SOAK_BATCHES))
            wrong += int((pipeline.predict(images[chosen]).labels != expected[chosen]).sum())
            if call == calls // 10:
                early = resident_mib()
        late = resident_mib()
    return SoakResult(calls=calls, wrong=wrong, growth_mib=None if early is None or late is None else late - early)


def resident_mib() -> float | None:
    """Return the resident memory of this process, where Linux tells it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), None)
