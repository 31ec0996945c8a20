"""The latency budget of a camera's run: the pipeline that stays within it, found by measuring."""

import logging
import time

import numpy as np

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import LOSSLESS
from purify_edge.engines.agreement import agreement_of
from purify_edge.engines.plan import AUTO
from purify_edge.engines.registry import engine_row
from purify_edge.engines.tensorrt.store import EnginePolicy
from purify_edge.errors import BuildError, BundleError, MissingError, PurifyError
from purify_edge.pipeline.pipeline import Pipeline

logger = logging.getLogger("purify_edge")

CALLS, WARMUP = 200, 20
LIMIT_S = 3.0


class OverBudgetError(PurifyError):
    """Nothing here is fast enough."""

    exit_code = 1


def load_within(
    bundle: Bundle,
    limit_ms: float,
    *,
    engine: str,
    precision: str,
    policy: EnginePolicy | None,
    spare_clean: bool = False,
) -> Pipeline:
    """Open a bundle so that 99 of 100 single images take no longer than a limit, each from pixels to answer.

    What would run without a limit is taken where it keeps it. Otherwise a lossy precision that answers the golden set
    as PyTorch does is, even one that is hardly faster, and the log says what was given up.

    Args:
        bundle: the bundle.
        limit_ms: the limit.
        engine, precision, policy, spare_clean: as of `Pipeline.load`; a requested precision is not given up.

    Raises:
        OverBudgetError: nothing keeps the limit.
        BundleError, InputError, MissingError, BuildError: see `Pipeline.load`.
    """
    golden, tried = load_golden(bundle), dict[str, float]()
    images = next(iter(golden.values())).images

    def keeps(pipeline: Pipeline, name: str) -> bool:
        tried[name] = _p99_ms(pipeline, images)
        return tried[name] <= limit_ms

    def load(wanted: str) -> Pipeline:
        return Pipeline.load(bundle, engine=engine, precision=wanted, policy=policy, spare_clean=spare_clean)

    def within() -> Pipeline | None:
        first = load(precision)
        plan = first.plan
        if keeps(first, plan.precision):
            logger.info("%.3g ms at p99, of the %g ms allowed", tried[plan.precision], limit_ms)
            return first
        first.close()
        known = [*bundle.precisions("defended"), *engine_row(plan.engine).computes] if precision == AUTO else []
        for other in dict.fromkeys(known):
            if other in (LOSSLESS, plan.precision):
                continue
            try:
                rival = load(other)
            except (MissingError, BuildError, BundleError):
                continue
            if agreement_of(rival.planned.ways[0], bundle, lambda: golden).admits(other) and keeps(rival, other):
                logger.warning(
                    "%s rather than %s, for %g ms: %.3g ms at p99, not %.3g",
                    *(other, plan.precision, limit_ms, tried[other], tried[plan.precision]),
                )
                return rival
            rival.close()
        return None

    found = within()
    if found is None:
        measured = ", ".join(f"{name} {value:.3g} ms" for name, value in tried.items())
        raise OverBudgetError(
            f"nothing here stays below {limit_ms:g} ms at p99: {measured}; allow more with --max-latency-ms, export a "
            "smaller pair or another precision, or see purify-bench for other engines"
        )
    return found


def _p99_ms(pipeline: Pipeline, images: np.ndarray) -> float:
    """Return the 99th percentile of the time of single images."""
    times_ms: list[float] = []
    deadline = time.monotonic() + LIMIT_S
    for call in range(WARMUP + CALLS):
        begin = time.perf_counter()
        pipeline.predict(images[call % len(images)][None])
        times_ms.append(1000 * (time.perf_counter() - begin))
        if call >= WARMUP and time.monotonic() > deadline:
            break
    return float(np.percentile(times_ms[WARMUP:], 99))
