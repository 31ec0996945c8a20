"""The benchmark from end to end."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from lab.speed.bars import Bench, bars_of
from lab.speed.contestants import LABELS, gather
from lab.speed.load import busy_processes
from lab.speed.process import measure_process
from lab.speed.rounds import Call, measure
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.check.check import some_images
from purify_edge.machine import environment

BATCHES = (1, 8, 64, 256)


def bench(
    path: Path,
    *,
    engine: str = "auto",
    precision: str = "fp32",
    batches: Sequence[int] = BATCHES,
    rounds: int = 60,
    budget_s: float = 20.0,
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
        added: further contestants in the place of a run's.
        engine, precision, batches, rounds, budget_s, run, process, soak, busy: see the command's options.
        tell: gets a line for each step.

    Raises:
        BundleError, InputError, MissingError, BuildError: see `Pipeline.load`.
    """
    bundle = Bundle.open(path)
    split = load_golden(bundle)["clean"]
    rows = []
    with ExitStack() as stack:
        tell("opening contestants")
        contestants = gather(path, precision, engine, run, stack, added=added)
        with busy_processes(int(busy)):
            for batch in batches:
                tell(f"batch {batch}")
                images = some_images(split, batch)
                rows += measure(contestants.calls, images, rounds=rounds, budget_s=budget_s, reference=LABELS)
    found = None
    if process:
        tell(f"cold start and memory; {soak} predictions")
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
