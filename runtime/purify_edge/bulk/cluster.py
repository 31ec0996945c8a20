"""The Ray that does the work, one of this machine's own or a cluster that is there, and what it is asked to do."""

import importlib
import logging
import math
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from purify_edge.bulk.purifier import PATH, Answer, BulkPurifier, Files
from purify_edge.errors import InputError, MissingError, PurifyError, reason
from purify_edge.extras import require_library

CPUS = 0.5  # that a worker asks Ray for: with a whole one each, those of a lost machine may find no place on the others
MAX_BLOCKS = 10_000  # that are handed out; Ray keeps an eye on each
BLOCKS, MOST_BATCHES = 8, 16  # for each worker at least, and in each at most: Ray takes a while for a block
MOST_TRIES = 2
"""How many workers may die while they process one image alone; it is an error then."""
NAMED = re.compile(r"[\w.]+(Error|Exception)\b")
"""How the line of Ray's text begins that says what failed; advice follows it."""
REACH_S = 20.0
TRIES = 3
"""To start Ray here: it gives itself half a minute, which is not enough where others keep the cores busy."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many workers there are to be, and what each takes."""

    count: int | None = None  # None: one a machine, or as many as the GPUs allow
    gpus: float | None = None  # of each; None: one where the cluster has any
    batch: int


@contextmanager
def connect(address: str | None) -> Iterator["Cluster"]:
    """Start Ray on this machine for the time of the block, or connect to the cluster that is at the address.

    Raises:
        InputError: no cluster answers there.
        MissingError: Ray is not installed, or cannot be started here.
    """
    ray = require_library("ray", "ray")
    require_library("ray.data", "ray")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # the rest is for debugging Ray itself
    if address:
        _reach(address)
    _start(ray, address)
    with redirect_stdout(sys.stderr):  # Ray reports processes that died there, until it ends itself
        try:
            yield Cluster(ray, local=not address)
        finally:
            ray.shutdown()


def _start(ray: Any, address: str | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        try:
            ray.init(address, **quiet)
        except Exception as error:  # of many kinds
            raise InputError(f"--address {address}: no Ray cluster can be used there ({reason(error)})") from error
        return
    for tries_left in reversed(range(TRIES)):
        try:
            ray.init("local", include_dashboard=False, **quiet)
            return
        except Exception as error:
            if not tries_left:
                raise MissingError(f"Ray cannot be started here ({reason(error)})") from error


def _reach(address: str) -> None:
    """Raise InputError where nobody listens: Ray itself would try for many minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not port.isdecimal():
        return  # auto, say
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--address {address}: no answer ({getattr(error, 'strerror', None) or error}); "
            "ray start --head prints the address of a cluster"
        ) from error


class Cluster:
    """A Ray that this process is connected to.

    Attributes:
        worker: the class that runs batches.
    """

    def __init__(self, ray: Any, *, local: bool) -> None:
        self._ray, self._local, self.worker = ray, local, Worker
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # ours counts images
        for handler in logging.getLogger("ray.data").handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)

    def settled(self, workers: Workers) -> tuple[int, float]:
        """Return how many workers there will be, and the GPUs of each.

        Raises:
            MissingError: no machine has what a worker takes.
        """
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = min(1.0, max(node.get("GPU", 0.0) for node in nodes)) if workers.gpus is None else workers.gpus
        if not any(node.get("CPU", 0.0) >= CPUS and node.get("GPU", 0.0) >= gpus for node in nodes):
            raise MissingError(
                f"no machine of the Ray cluster has {CPUS} CPU and {gpus:g} GPU for a worker; see --gpus"
            )
        fits = [math.floor(node.get("GPU", 0.0) / gpus) if gpus else 1 for node in nodes if node.get("CPU")]
        return workers.count or max(1, sum(fits)), gpus

    def inspect(self, settings: dict[str, Any], *, gpus: float) -> tuple[str, str]:
        """Load the bundle where a worker would, and return the precision that is taken there, and what runs, as text.

        Raises:
            PurifyError: as `BulkPurifier` does; or purify-edge is not installed there.
        """
        if self._local:
            return _plan(settings)
        task = self._ray.remote(num_cpus=CPUS, num_gpus=gpus)(_plan)
        try:
            found: tuple[str, str] = self._ray.get(task.remote(settings))
        except self._ray.exceptions.RayError as error:
            raise _told(error) from error
        return found

    def answers(
        self, paths: Sequence[str], settings: dict[str, Any], *, count: int, gpus: float, batch: int
    ) -> Iterator[Any]:
        """Yield tables with an answer a path, as they come.

        Raises:
            PurifyError: a worker cannot load the bundle, or the cluster has failed.
        """
        data, pyarrow = self._ray.data, require_library("pyarrow", "ray")
        rows = batch * _batches_a_block(len(paths) / batch, count)
        blocks = [pyarrow.table({PATH: paths[start : start + rows]}) for start in range(0, len(paths), rows)]
        attempts = self._ray.remote(**self._beside_the_command())(Attempts).remote()
        dataset = data.from_arrow(blocks).map_batches(
            self.worker,
            fn_constructor_kwargs={"attempts": attempts, "batch": batch, **settings},
            batch_size=None,
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(size=min(count, len(blocks))),
            num_cpus=CPUS,
            num_gpus=gpus,
        )
        try:
            yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
        except self._ray.exceptions.RayError as error:
            raise _told(error) from error

    def _beside_the_command(self) -> dict[str, Any]:
        """Return the options of an actor that is lost with the command's machine alone."""
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        here = self._ray.get_runtime_context().get_node_id()
        return {"num_cpus": 0, "scheduling_strategy": strategies.NodeAffinitySchedulingStrategy(here, soft=False)}


def _batches_a_block(batches: float, workers: int) -> int:
    """Return how many batches are handed out together: few enough that all workers have work to the end."""
    return max(1, math.ceil(batches / MAX_BLOCKS), min(MOST_BATCHES, int(batches / workers / BLOCKS)))


def _plan(settings: dict[str, Any]) -> tuple[str, str]:
    with BulkPurifier(**settings).pipeline as pipeline:
        return pipeline.plan.precision, str(pipeline.plan)


def _told(error: Any) -> PurifyError:
    """Return the error to report for one of Ray's: the one of ours behind it, or the last line of its text."""
    cause = error
    while cause is not None and not isinstance(cause, PurifyError):
        cause = getattr(cause, "cause", None) or cause.__cause__
    if cause is not None:
        return cause
    lines = str(error).strip().splitlines()
    last = [line for line in lines if NAMED.match(line.strip())][-1:] or lines[-1:] or [type(error).__name__]
    if "No module named 'purify_edge" in str(error):
        return MissingError("a machine of the Ray cluster lacks purify-edge: install the same version on all of them")
    return MissingError(f"the Ray cluster failed: {last[0].strip()}; the same command goes on with what is not done")


class Attempts:
    """Counts, for all workers, how many began with a file and did not end with it: they were killed, maybe by it."""

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}

    def any_begun(self, names: Sequence[str]) -> bool:
        """Return whether somebody began with one of them before and did not end."""
        return not self._begun.keys().isdisjoint(names)

    def begin(self, name: str) -> int:
        """Return how many workers began with this file before and did not end."""
        before = self._begun.get(name, 0)
        self._begun[name] = before + 1
        return before

    def end(self, name: str) -> None:
        """Forget the file: the worker on it has finished it."""
        self._begun.pop(name, None)


class Worker(BulkPurifier):
    """A purifier that outlives a file which kills it: after a death images run one by one, and are given up in the end.

    Args:
        attempts: the handle of `Attempts`; all others see `BulkPurifier`.
    """

    def __init__(self, bundle: str, *, attempts: Any, **settings: Any) -> None:
        super().__init__(bundle, **settings)
        self._ray, self._attempts = require_library("ray", "ray"), attempts

    def answers(self, batches: Sequence[Files]) -> list[Answer]:
        """Return an answer a file; one batch after the other where one of them was begun before and not ended."""
        if self._ray.get(self._attempts.any_begun.remote([_key(files) for files in batches])):
            return [answer for files in batches for answer in self.answers_of(files)]
        return super().answers(batches)

    def answers_of(self, files: Files) -> list[Answer]:
        """Return an answer for each file of one batch."""
        if self._ray.get(self._attempts.begin.remote(_key(files))):
            found = [self._alone(file) for file in files]
        else:
            found = super().answers_of(files)
        self._attempts.end.remote(_key(files))
        return found

    def _alone(self, file: tuple[str, bytes | None]) -> Answer:
        name, _ = file
        if self._ray.get(self._attempts.begin.remote(name)) >= MOST_TRIES:
            self._attempts.end.remote(name)
            return {"error": f"{name}: {MOST_TRIES} workers ended while they were at work on it"}
        (found,) = super().answers_of([file])
        self._attempts.end.remote(name)
        return found


def _key(files: Files) -> str:
    return f"batch of {files[0][0]}"
