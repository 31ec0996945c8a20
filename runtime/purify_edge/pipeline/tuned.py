"""Engines as tuned: the size of a batch decides what runs it; what that takes is opened when it is first used."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import RLock
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.reader import Bundle
from purify_edge.engines import ON_CPU, Chain, Engine, HostChain, HostOptions, TensorSpec
from purify_edge.engines.tune import BATCHES, BUDGET_S, Choice, Setting, candidates, cores, nearest, tune
from purify_edge.engines.tune_cache import recall, remember
from purify_edge.errors import MissingError
from purify_edge.machine import return_memory
from purify_edge.pipeline.pipeline import open_model

logger = logging.getLogger("purify_edge")

Array = NDArray[np.float32]
PART = 4
"""Images a call, at least, where calls run at once."""
PARTS = 4
"""Calls a worker, at most: few enough to cost little, and enough for a core that is busy to take fewer."""


def open_tuned(bundle: Bundle, precision: str) -> "tuple[TunedEngine, TunedEngine]":
    """Purifier and classifier of a bundle as tuned for this machine's CPU, now or earlier.

    Raises:
        BundleError: see `open_model`.
        MissingError: no engine on the CPU takes the models.
    """
    pair = Pair(bundle, precision)
    try:
        remembered = recall(bundle.manifest, precision)
        if remembered is not None and pair.adopt(remembered):
            logger.info("as tuned for this machine: %s", pair.told())
        else:
            _tune(pair, bundle, precision)
        return TunedEngine(pair, "purifier"), TunedEngine(pair, "classifier")
    except BaseException:
        pair.close()
        raise


def _tune(pair: "Pair", bundle: Bundle, precision: str) -> None:
    start = time.monotonic()
    names = _runnable(pair)
    contract = bundle.manifest.input
    found = tune(
        lambda setting: pair.route("logits", setting),
        names,
        (contract.channels, contract.height, contract.width),
        budget_s=BUDGET_S - (time.monotonic() - start),
    )
    pair.adopt({batch: best.choice for batch, best in found.items()})
    kept = remember(bundle.manifest, precision, pair.choices)
    logger.info("tuned in %.1f s: %s; %s", time.monotonic() - start, pair.told(), kept)


def _runnable(pair: "Pair") -> list[Setting]:
    """The candidates whose engine is here and takes the models.

    Raises:
        MissingError: there are none; why.
    """
    reasons = {}
    for name in ON_CPU:
        try:
            pair.engine("defended", candidates([name], cores())[0])
        except MissingError as error:
            reasons[name] = str(error)
    able = [name for name in ON_CPU if name not in reasons]
    if not able:
        raise MissingError("no engine works here: " + "; ".join(f"{name} {why}" for name, why in reasons.items()))
    return candidates(able, cores())


class Pair:
    """A bundle's models of one precision, and how each size of batch is run.

    Attributes:
        choices: by size of batch.
    """

    def __init__(self, bundle: Bundle, precision: str) -> None:
        self._bundle, self._precision = bundle, precision
        self.choices: dict[int, Choice] = {}
        self._lock = RLock()
        self._engines: dict[tuple[str, str, HostOptions], Engine] = {}
        self._routes: dict[tuple[str, int], Callable[[Array], Any]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def adopt(self, choices: Mapping[int, Choice]) -> bool:
        """Take settings, open what one image needs, close what nothing needs; whether their engines are here."""
        with self._lock:
            self.choices = dict(choices)
            self._routes.clear()
            used = {key for choice in choices.values() for key in _keys(choice)}
            for key in self._engines.keys() - used:
                self._engines.pop(key).close()
            return_memory()
            try:
                self.at("both", 1)
            except MissingError:
                return False
            return True

    def told(self) -> str:
        """The settings, in words."""
        return "; ".join(f"batch {batch}: {setting}" for batch, setting in self.choices.items())

    def at(self, what: str, batch: int) -> Callable[[Array], Any]:
        """What runs a batch of this size; see `route`."""
        route = self._routes.get((what, batch))
        if route is None:
            with self._lock:
                choice = self.choices[nearest(batch, tuple(self.choices))]
                route = self.route(what, choice.logits if what == "logits" else choice.both)
                self._routes[what, batch] = route
        return route

    def route(self, what: str, setting: Setting) -> Callable[[Array], Any]:
        """What runs a batch by a setting.

        Args:
            what: `purifier`, `classifier`; `both` for the purified images and the logits, `logits` for those alone.
            setting: how.
        """
        if what == "logits" and setting.graph == "composed":
            run: Callable[[Array], Any] = self.engine("defended", setting).run
        elif what in ("both", "logits"):
            chain = self.engine("purifier", setting).then(self.engine("classifier", setting))
            run = chain.run if what == "both" else chain.last
        else:
            run = self.engine(what, setting).run
        return partial(_in_parts, self._workers(), setting.workers, run) if setting.workers > 1 else run

    def engine(self, role: str, setting: Setting) -> Engine:
        """A model in a setting's engine, opened once."""
        key = (role, setting.engine, setting.host)
        with self._lock:
            if key not in self._engines:
                self._engines[key] = open_model(self._bundle, role, self._precision, setting.engine, host=setting.host)
            return self._engines[key]

    def _workers(self) -> ThreadPoolExecutor:
        with self._lock:
            self._pool = self._pool or ThreadPoolExecutor(cores(), thread_name_prefix="purify")
            return self._pool

    def close(self) -> None:
        """Close every engine."""
        with self._lock:
            if self._pool:
                self._pool.shutdown()
            self._routes.clear()
            while self._engines:
                self._engines.popitem()[1].close()


def _keys(choice: Choice) -> Iterator[tuple[str, str, HostOptions]]:
    """Role, engine and host options of the engines that a choice needs."""
    for setting in (choice.logits, choice.both):
        for role in ("defended",) if setting.graph == "composed" else ("purifier", "classifier"):
            yield role, setting.engine, setting.host


def part_of(batch: int, workers: int) -> int:
    """How many images of a batch go into one call.

    >>> [part_of(batch, 2) for batch in (1, 8, 64)], part_of(64, 8)
    ([4, 4, 8], 4)
    """
    return max(PART, math.ceil(batch / (PARTS * workers)))


def _in_parts(pool: ThreadPoolExecutor, workers: int, run: Callable[[Array], Any], x: Array) -> Any:
    """Run parts of a batch at once; a core that something else keeps busy takes fewer of them."""
    part = part_of(len(x), workers)
    if len(x) <= part:
        return run(x)
    results: Sequence[Any] = list(pool.map(run, [x[start : start + part] for start in range(0, len(x), part)]))
    if isinstance(results[0], tuple):
        return tuple(np.concatenate(outputs) for outputs in zip(*results, strict=True))
    return np.concatenate(results)


class TunedEngine:
    """A model of a pair, each batch run by what its size was tuned for. A context manager; see `Engine`."""

    device = "cpu"

    def __init__(self, pair: Pair, role: str) -> None:
        self.pair, self._role = pair, role
        single = pair.engine(role, pair.choices[BATCHES[0]].both)
        self.name, self.version = single.name, single.version
        self.input_spec: TensorSpec = single.input_spec
        self.output_spec: TensorSpec = single.output_spec

    @property
    def settings(self) -> str:
        """What runs which batch, in words."""
        return self.pair.told()

    def run(self, x: Array) -> Array:
        """See `Engine.run`."""
        output: Array = self.pair.at(self._role, len(x))(x)
        return output

    def then(self, other: Engine) -> Chain:
        """See `Engine.then`."""
        if isinstance(other, TunedEngine) and other.pair is self.pair:
            return TunedChain(self.pair)
        return HostChain(self, other)

    def close(self) -> None:
        """Close the pair's engines, this and the others."""
        self.pair.close()

    def __enter__(self) -> "TunedEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TunedChain:
    """Purifier and classifier of a pair; see `Chain`."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    def run(self, x: Array) -> tuple[Array, Array]:
        """See `Chain.run`."""
        purified, logits = self._pair.at("both", len(x))(x)
        return purified, logits

    def last(self, x: Array) -> Array:
        """See `Chain.last`: by the composed graph, where that is faster."""
        logits: Array = self._pair.at("logits", len(x))(x)
        return logits

    def close(self) -> None:
        """Nothing to free beside the engines."""
