"""The benchmark from end to end."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path

from lab.speed.bars import Bench, bars_of
from lab.speed.contestants import LABELS, Call, gather
from lab.speed.process import measure_process
from lab.speed.rounds import measure
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.check.check import some_images
from purify_edge.machine import environment

BATCHES = (1, 8, 64, 256)
ROUNDS = 60
BUDGET_S = 20.0


def bench(
    path: Path,
    *,
    engine: str = "auto",
    precision: str = "fp32",
    batches: Sequence[int] = BATCHES,
    rounds: int = ROUNDS,
    budget_s: float = BUDGET_S,
    run: str | None = None,
    added: Mapping[str, Call] | None = None,
    process: bool = True,
    soak: int = 0,
    busy: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Bench:
    """Time the pipeline of a bundle beside others.

    Args:
        path: the bundle.
        engine: of the pipeline.
        precision: of the models.
        batches: sizes of batch.
        rounds: at most, for each size.
        budget_s: seconds after which no other round begins, for each size.
        run: a run, or a pair that ships, whose networks PyTorch runs too.
        added: further contestants in the place of a run's.
        process: whether to start processes, for cold start and memory.
        soak: predictions of the soak.
        busy: keep one core busy meanwhile, by another process.
        tell: told what is being done.

    Raises:
        BundleError, InputError, MissingError, BuildError: see `Pipeline.load`.
    """
    bundle = Bundle.open(path)
    split = load_golden(bundle)["clean"]
    rows = []
    with ExitStack() as stack:
        tell("opening contestants")
        contestants = gather(path, precision, engine, run, stack, added=added)
        with _busy_process() if busy else nullcontext():
            for batch in batches:
                tell(f"batch {batch}")
                images = some_images(split, batch)
                rows += measure(contestants.calls, images, rounds=rounds, budget_s=budget_s, reference=LABELS)
    found = None
    if process:
        tell("cold start and memory" + (f"; {soak} predictions" if soak else ""))
        found = measure_process(path, split.images[0], engine=engine, precision=precision, soak=soak)
    flop = bundle.model("defended", precision).flop
    return Bench(
        environment=environment({"purify-edge": version("purify-edge")}),
        bundle=bundle.manifest.name,
        precision=precision,
        settings=contestants.settings,
        flop=flop,
        busy=busy,
        rows=tuple(rows),
        process=found,
        bars=tuple(bars_of(rows, flop, found, contestants.not_run)),
        not_run=contestants.not_run,
    )


@contextmanager
def _busy_process() -> Iterator[None]:
    """Another process that uses one core."""
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        child.kill()
        child.wait()
