"""Speed under load: how fast the pipeline is beside the libraries by hand while other processes keep the cores busy.

It is opened under one load and used under another, for 0, 1 and 2 busy processes each: what is chosen at a calm moment
must not be slow at a busy one, and the other way round. The libraries take part twice, as two contestants each: the
ratio of the better one to itself is what chance alone does.

Usage: python -m lab.speed.load BUNDLE... [--batches 1,8,64] [--seconds 4] [--out FILE.json]
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lab.speed.bars import Bar, bar
from lab.speed.by_hand import LIBRARIES
from lab.speed.contestants import LABELS, PREDICT
from lab.speed.document import bars_table
from lab.speed.rounds import Call, Images
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Plan
from purify_edge.check.check import some_images
from purify_edge.document.markdown import markdown_table
from purify_edge.document.model import Table, table
from purify_edge.errors import MissingError
from purify_edge.machine import environment
from purify_edge.pipeline.pipeline import Pipeline

LOADS = (0, 1, 2)
AGAIN = "again"
USE_S = 2.0
"""Seconds of use after which the bars hold."""


class LoadRow(msgspec.Struct, frozen=True, kw_only=True):
    """The median times in milliseconds of all contestants, which took turns, at one batch and one pair of loads."""

    bundle: str
    batch: int
    opened_under: int
    run_under: int
    rounds: int
    plan: str
    running: str
    times_ms: dict[str, float]
    ratios: dict[str, float]


def measure_loads(bundle: Bundle, batches: Sequence[int], seconds: float) -> Iterator[LoadRow]:
    """Yield a row for each batch, load when opened, and load when run, each measured so long after USE_S of use."""
    split = load_golden(bundle)["clean"]
    hands = dict(_hands(bundle))
    for opened_under in LOADS:
        with busy_processes(opened_under):
            pipeline = Pipeline.load(bundle)
            for batch in batches:
                _use(pipeline, some_images(split, batch))
        with pipeline:
            for run_under in LOADS:
                with busy_processes(run_under):
                    for batch in batches:
                        images = some_images(split, batch)
                        _use(pipeline, images)
                        ours = {LABELS: pipeline.labels, PREDICT: pipeline.predict}
                        again = {_again(name): call for name, call in hands.items()}
                        times = _rounds({**ours, **hands, **again}, images, seconds)
                        where = {"bundle": bundle.manifest.name, "opened_under": opened_under, "run_under": run_under}
                        yield _row(times, hands, pipeline.plan, batch=batch, **where)


def _hands(bundle: Bundle) -> Iterator[tuple[str, Call]]:
    graph = bundle.read(bundle.model("defended", "fp32").file)
    for library in LIBRARIES:
        try:
            yield from LIBRARIES[library]([graph])
        except MissingError as error:
            print(f"not run: {library}: {error}", file=sys.stderr)


def _again(name: str) -> str:
    return f"{name}, {AGAIN}"


def _use(pipeline: Pipeline, images: Images) -> None:
    """Use the pipeline for USE_S, half of it for labels and half for predictions."""
    for call in (pipeline.labels, pipeline.predict):
        deadline = time.monotonic() + USE_S / 2
        while time.monotonic() < deadline:
            call(images)


def _rounds(calls: Mapping[str, Call], images: Images, seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = np.random.default_rng(0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or len(times[LABELS]) < 5:
        for name in order.permutation(list(calls)).tolist():
            calls[name](images)  # the threads of the one before calm down
            begin = time.perf_counter()
            calls[name](images)
            times[name].append(1000 * (time.perf_counter() - begin))
    return times


def _row(
    times: Mapping[str, list[float]], hands: Mapping[str, Call], plan: Plan, *, batch: int, **where: Any
) -> LoadRow:
    medians = {name: float(np.median(values)) for name, values in times.items()}
    name_of_better = min(hands, key=lambda name: medians[name])
    better = np.array(times[name_of_better])
    compared = {LABELS: LABELS, PREDICT: PREDICT, AGAIN: _again(name_of_better)}
    return LoadRow(
        **where,
        batch=batch,
        rounds=len(better),
        plan=str(plan),
        running=plan.running.get(f"logits, batch {1 << batch.bit_length() - 1}", ""),
        times_ms={name: medians[name] for name in (LABELS, PREDICT, *hands)},
        ratios={ratio: float(np.median(np.array(times[name]) / better)) for ratio, name in compared.items()},
    )


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep so many cores busy by other processes, as long as the block lasts."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5 if count else 0)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def bars_of(rows: Sequence[LoadRow]) -> list[Bar]:
    """Return each bar over all rows of a bundle: a largest ratio to the better of the libraries by hand."""
    labels, predict = ([row.ratios[name] for row in rows] for name in (LABELS, PREDICT))
    return [
        bar("labels, the worst", max(labels), 1.10),
        bar("labels, the median", float(np.median(labels)), 1.0),
        bar("predict, the worst", max(predict), 1.6),
    ]


def main() -> None:
    """Measure, print two tables a bundle, and end with 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--batches", default="1,8,64")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    batches = [int(part) for part in options.batches.split(",")]
    everything: list[LoadRow] = []
    missed = False
    for path in options.bundles:
        bundle = Bundle.open(path)
        rows = list(measure_loads(bundle, batches, options.seconds))
        everything += rows
        bars = bars_of(rows)
        missed |= not all(bar.passed for bar in bars)
        print(f"\n## {bundle.manifest.name}\n\n{rows[0].plan}\n")
        print(markdown_table(ratios_table(rows)), markdown_table(bars_table(bars)), sep="\n\n")
    if options.out:
        about = {"environment": environment({}), "rows": everything}
        options.out.write_bytes(msgspec.json.format(msgspec.json.encode(about), indent=2) + b"\n")
    raise SystemExit(1 if missed else 0)


def ratios_table(rows: Sequence[LoadRow]) -> Table:
    """Return a row for each batch and pair of loads: our ratios to the better by hand, and everybody's times."""
    columns = ("batch", "busy when opened", "busy when run", "labels", "predict", "chance", "running", "by hand, ms")
    lines = []
    for row in rows:
        hands = ", ".join(f"{name} {ms:.2f}" for name, ms in row.times_ms.items() if name not in (LABELS, PREDICT))
        ratios = (f"{row.ratios[name]:.2f} ({row.times_ms[name]:.2f} ms)" for name in (LABELS, PREDICT))
        chance = f"{row.ratios[AGAIN]:.2f}"
        lines.append((str(row.batch), str(row.opened_under), str(row.run_under), *ratios, chance, row.running, hands))
    return table("Ratios to the better by hand", columns, lines)


if __name__ == "__main__":
    main()
