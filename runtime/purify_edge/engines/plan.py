"""The plan: which engine, precision and use of the cores a bundle gets here; all that runs a bundle asks this module.

The precision is chosen once, when a bundle is opened, and stays, so that no answer depends on the moment it was asked
for. A lossy one is chosen by itself only where it answers the golden set as PyTorch does and is clearly faster. The
engine may change while the pipeline runs, among ways of the same precision that agree with each other.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from statistics import geometric_mean
from threading import Lock
from typing import TypeVar

import numpy as np

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import LOSSLESS, Agreement, Plan
from purify_edge.engines.agreement import Golden, agreement_of
from purify_edge.engines.base import Array, Closing
from purify_edge.engines.lane import Lane
from purify_edge.engines.models import Models, Setup, engine_files
from purify_edge.engines.registry import computed_precisions, engine_module, engine_row, engines_on
from purify_edge.engines.tensorrt.store import EnginePolicy
from purify_edge.errors import BuildError, BundleError, InputError, MissingError

logger = logging.getLogger("purify_edge")

T = TypeVar("T")
AUTO = "auto"
RACE_BATCHES = (1, 8)
"""Sizes of batch at which precisions are compared."""
RACE_S = 0.1
"""Seconds for each of them."""
LEAST_GAIN = 1.1
"""A lossy precision must be so many times as fast as float32."""


class PlannedPair(Closing):
    """A bundle's purifier and classifier, run as planned. Any thread may call it.

    Attributes:
        ways: the models, opened one way each; they take turns where there are several.
        others: what another opening on this device might choose, if requested.
    """

    def __init__(
        self,
        ways: Sequence[Models],
        others: Sequence[Models],
        *,
        gain: float | None,
        agreement: Agreement | None,
        left_out: dict[str, str],
    ) -> None:
        self.ways, self.others = list(ways), list(others)
        self._gain, self._agreement, self._left_out = gain, agreement, left_out
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._lock = Lock()

    @property
    def plan(self) -> Plan:
        """Return the plan as it is now."""
        with self._lock:
            lanes = sorted(self._lanes.items())
        first = next((lane for (_, size), lane in lanes if size == 1), None)
        models = self.ways[first.best if first else 0]
        return Plan(
            engine=models.setup.engine,
            device=models.engine("classifier").device,
            precision=models.setup.precision,
            ways=tuple(str(way.setup) for way in self.ways),
            running={f"{kind}, batch {1 << size - 1}": str(self.ways[lane.best].setup) for (kind, size), lane in lanes},
            gain=self._gain,
            agreement=self._agreement,
            left_out=self._left_out,
        )

    def purify(self, x: Array) -> Array:
        """Return the purified images `[N, C, H, W]`."""
        return self._run("purify", Models.purify, x)

    def classify(self, x: Array) -> Array:
        """Return the logits `[N, K]` of images that are not purified."""
        return self._run("classify", Models.classify, x)

    def both(self, x: Array) -> tuple[Array, Array]:
        """Return the purified images `[N, C, H, W]` and their logits `[N, K]`."""
        return self._run("both", Models.both, x)

    def scored(self, x: Array) -> tuple[Array, Array, Array]:
        """Return what `both` does, and the logits of the images as they are."""
        return self._run("scored", Models.scored, x)

    def logits(self, x: Array) -> Array:
        """Return the logits `[N, K]` of the purified images."""
        return self._run("logits", Models.logits, x)

    def _run(self, kind: str, call: Callable[[Models, Array], T], x: Array) -> T:
        size = len(x).bit_length()
        lane = self._lanes.get((kind, size))
        if lane is None:
            with self._lock:
                lane = self._lanes.setdefault((kind, size), Lane(len(self.ways)))
        turn = lane.turn()
        models = self.ways[turn.way]
        try:
            models.open_for(kind)  # not to be counted, nor to be waited for while another thread does it
            begin = time.perf_counter()
            answer = call(models, x)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # engines' exceptions share no base but Exception
            return self._by_another(lane, turn.way, error, call, x)
        lane.took(turn, time.perf_counter() - begin, len(x))
        return answer

    def _by_another(self, lane: Lane, failed: int, error: Exception, call: Callable[[Models, Array], T], x: Array) -> T:
        """Answer a call that failed by another way; then the one that failed is at fault, else the call."""
        for way in lane.others(failed):
            try:
                answer = call(self.ways[way], x)
            except InputError:
                raise
            except Exception:
                continue
            lane.broke(failed)
            logger.warning("%s failed, and takes no more such calls: %s", self.ways[failed].setup, error)
            return answer
        raise error

    def close(self) -> None:
        """Close every engine."""
        for models in (*self.ways, *self.others):
            models.close()


def open_plan(
    bundle: Bundle,
    *,
    engine: str = AUTO,
    precision: str = AUTO,
    policy: EnginePolicy | None = None,
    golden: Golden | None = None,
    keep_others: bool = False,
) -> PlannedPair:
    """Open a bundle as it is to be run on this device: the one function that decides.

    Args:
        bundle: the bundle.
        engine: `auto`, or a key of ENGINES, which then runs everything.
        precision: `auto`, or one of the bundle's; also `bf16` where an engine can compute float32 graphs so.
        policy: what may be done about engine files.
        golden: loads the golden set, where it is loaded already; None to load it where it is needed.
        keep_others: keep open what another opening might choose, since the speeds of two precisions may be close, and
            this may be too slow a moment to see that a lossy one answers right.

    Raises:
        BundleError: a file is damaged, or there is no such precision.
        InputError: there is no such engine.
        MissingError: the engine does not work here, or none does.
        BuildError: the engine cannot be built of the bundle's graphs.
    """
    chooser = _Chooser(bundle, policy, golden or partial(load_golden, bundle), pinned=engine != AUTO)
    chooser.keep_others = keep_others
    return chooser.open_first(precision) if engine == AUTO else chooser.open([engine], precision)


class _Chooser:
    """Opens candidates and keeps what will run."""

    def __init__(self, bundle: Bundle, policy: EnginePolicy | None, golden: Golden, *, pinned: bool) -> None:
        self._bundle, self._policy, self._golden, self._pinned = bundle, policy, golden, pinned
        self._left_out: dict[str, str] = {}
        self._opened: list[Models] = []
        self._possible: list[Models] = []
        self.keep_others = False

    def open_first(self, precision: str) -> PlannedPair:
        """Open the first GPU engine that works here, else what runs on the CPU."""
        for name in engines_on("gpu"):
            try:
                return self.open([name], precision)
            except (MissingError, BuildError) as error:
                self._left_out[name] = str(error)
        try:
            return self.open(engines_on("cpu"), precision)
        except MissingError as error:
            reasons = "; ".join(f"{name} {why}" for name, why in self._left_out.items())
            raise MissingError(f"no engine works here: {reasons}") from error

    def open(self, engines: Sequence[str], precision: str) -> PlannedPair:
        """Open engines of one device, in a precision or in the one that is best; close what will not run."""
        kept: list[Models] = []
        try:
            if precision == AUTO:
                chosen, gain, agreement = self._best(engines)
            else:
                chosen, gain, agreement = self._ways(engines, precision), None, None
            chosen = [*chosen, *self._on_other_cores(chosen)]
            others = [models for models in self._possible if models not in chosen] if self.keep_others else []
            kept = [*chosen, *others]
            return PlannedPair(chosen, others, gain=gain, agreement=agreement, left_out=self._left_out)
        finally:
            for models in self._opened:
                if models not in kept:
                    models.close()
            self._opened.clear()
            self._possible.clear()

    def _best(self, engines: Sequence[str]) -> tuple[list[Models], float | None, Agreement | None]:
        """Return what runs in the best precision; its gain over float32 and its agreement where it is a lossy one.

        Where float32 would have to be built first and a lossy precision is there, that one runs.
        """
        lossless = self._ways(engines, LOSSLESS) if self._is_there(engines) else []
        best, gain, agreement = lossless, None, None
        self._possible += lossless
        for rival, found in self._rivals(engines):
            self._possible.append(rival)
            try:
                faster = min((_gain(base, rival, self._bundle) for base in lossless), default=LEAST_GAIN)
            except Exception as error:  # engines' exceptions share no base but Exception
                self._left_out[str(rival.setup)] = str(error)
                continue
            if faster < LEAST_GAIN or (agreement and faster <= (gain or LEAST_GAIN)):
                self._left_out[str(rival.setup)] = f"is {faster:.2f} times as fast as float32"
                continue
            if agreement:
                self._left_out[str(best[0].setup)] = f"is slower than {rival.setup}"
            best, gain, agreement = [rival], faster if lossless else None, found
        return best or self._ways(engines, LOSSLESS), gain, agreement

    def _is_there(self, engines: Sequence[str]) -> bool:
        """Return whether float32 can be opened without building an engine."""
        row = engine_row(engines[0])
        return not row.builds or self._is_built(Setup(engines[0], LOSSLESS, LOSSLESS))

    def _ways(self, engines: Sequence[str], precision: str) -> list[Models]:
        """Return what may take turns in a precision: of a lossy one, one engine only.

        Raises:
            MissingError, BuildError: no engine takes it; the error of the only one, or of all.
            BundleError: the bundle has no such precision.
        """
        works: list[Models] = []
        failure: Exception | None = None
        for name in engines:
            if works and precision != LOSSLESS:
                break
            try:
                works.append(self._open(self._setup(name, precision)))
            except (MissingError, BuildError, BundleError) as error:
                self._left_out[name] = str(error)
                failure = error
                if len(engines) == 1:
                    raise
        if not works:
            raise failure if isinstance(failure, BundleError) else MissingError(f"no engine works here in {precision}")
        if len(works) > 1:
            works = [models for models in works if self._agrees(models)] or works[:1]
        return works

    def _on_other_cores(self, chosen: Sequence[Models]) -> list[Models]:
        """Return the same on other uses of the cores, which may be faster here and now; opened when they are tried."""
        setups = [
            replace(models.setup, cores=cores)
            for models in chosen
            for cores in engine_row(models.setup.engine).cores
            if cores != models.setup.cores
        ]
        return [] if self._pinned else [Models(self._bundle, setup, self._policy) for setup in setups]

    def _rivals(self, engines: Sequence[str]) -> Iterator[tuple[Models, Agreement]]:
        """Yield the lossy precisions that run here and answer the golden set as PyTorch does."""
        for name in engines:
            for setup in () if name in self._left_out else self._lossy(name):
                try:
                    models = self._open(setup)
                    agreement = agreement_of(models, self._bundle, self._golden, whole=self.keep_others)
                except (MissingError, BuildError, BundleError) as error:
                    self._left_out[str(setup)] = str(error)
                    continue
                if agreement.admits(setup.precision):
                    yield models, agreement
                else:
                    self._left_out[str(setup)] = f"{agreement}: too few for a lossy precision"

    def _lossy(self, name: str) -> Iterator[Setup]:
        there = [*self._bundle.precisions("defended"), *engine_row(name).computes]
        for precision in dict.fromkeys(there):
            if precision not in engine_module(name).lossy_precisions():
                continue
            setup = self._setup(name, precision)
            if engine_row(name).builds and not self._is_built(setup):
                self._left_out[str(setup)] = "no engine of it is built yet; purify-build builds it"
            else:
                yield setup

    def _is_built(self, setup: Setup) -> bool:
        """Return whether opening these models builds no engine."""
        files = [engine_files(self._bundle, role, setup, self._policy) for role in ("purifier", "classifier")]
        return all(map(engine_module(setup.engine).is_built, files))

    def _setup(self, name: str, precision: str) -> Setup:
        """Return the setup of an engine in a precision: that of the graphs, or else one that it can compute.

        Raises:
            BundleError: the bundle has no such precision, and no engine computes it.
            MissingError: another engine computes it.
        """
        known = self._bundle.precisions("defended")
        if precision in known:
            return Setup(name, precision, precision)
        if precision in engine_row(name).computes:
            return Setup(name, precision, LOSSLESS)
        if precision in computed_precisions():
            raise MissingError(f"computes no float32 graphs in {precision}, and {self._bundle.path} has no others")
        raise BundleError(f"{self._bundle.path} has no models in {precision}, only in {', '.join(known)}")

    def _open(self, setup: Setup) -> Models:
        models = Models(self._bundle, setup, self._policy)
        self._opened.append(models)
        models.open_pair()
        return models

    def _agrees(self, models: Models) -> bool:
        try:
            agreement = agreement_of(models, self._bundle, self._golden)
        except (MissingError, BuildError) as error:
            self._left_out[str(models.setup)] = str(error)
            return False
        if not agreement.admits(models.setup.precision):
            self._left_out[str(models.setup)] = f"its logits are off by {agreement.error:.1g}"
            return False
        return True


def _gain(base: Models, rival: Models, bundle: Bundle) -> float:
    """Return how many times as fast a rival is, over all of RACE_BATCHES; they take turns."""
    contract, ratios = bundle.manifest.input, []
    for batch in RACE_BATCHES:
        x = np.zeros((batch, contract.channels, contract.height, contract.width), np.float32)
        times: dict[Models, list[float]] = {base: [], rival: []}
        for models in times:
            models.pair.logits(x)
        deadline = time.monotonic() + RACE_S
        while time.monotonic() < deadline:
            for models, found in times.items():
                begin = time.perf_counter()
                models.pair.logits(x)
                found.append(time.perf_counter() - begin)
        ratios.append(min(times[base]) / min(times[rival]))  # what they take undisturbed
    return geometric_mean(ratios)
