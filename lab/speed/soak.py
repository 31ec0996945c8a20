"""Many predictions over several threads, some of bad input: nothing crashes or grows, every answer is the right one."""

import json
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from lab.speed.process import resident_mib
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.errors import PurifyError
from purify_edge.pipeline.pipeline import Pipeline
from purify_edge.pipeline.prediction import Prediction
from purify_edge.shell.command import Command

TOLERANCE = 1e-4  # of probabilities: batches of different sizes are summed in different orders
MAX_GROWTH_MIB = 16
WARM_UP = 0.1  # of all predictions, after which memory may not grow
BAD_EVERY = 100


class Soak:
    """Threads that predict until there were `predictions` of them.

    Attributes:
        done: what came of them, by kind: `good`, `refused`, or what went wrong.
        rss_mib: resident memory after WARM_UP and at the end.
    """

    def __init__(self, pipeline: Pipeline, images: NDArray[np.uint8], *, predictions: int, batch: int) -> None:
        self._pipeline, self._images, self._batch = pipeline, images, batch
        self._expected = _single(pipeline, images)
        self._numbers = iter(range(predictions))
        self._warm = int(predictions * WARM_UP)
        self._lock = threading.Lock()
        self.done: Counter[str] = Counter()
        self.images = 0
        self.rss_mib = [0.0, 0.0]

    def run(self, threads: int) -> None:
        """Run the threads until all predictions are made."""
        workers = [threading.Thread(target=self._work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.rss_mib[1] = resident_mib()

    def _work(self) -> None:
        while True:
            with self._lock:
                number = next(self._numbers, None)
            if number is None:
                return
            if number == self._warm:
                self.rss_mib[0] = resident_mib()
            try:
                outcome, images = self._predict(random.Random(number))
            except Exception as error:  # what a soak is for
                outcome, images = f"{type(error).__name__}: {error}", 0
            with self._lock:
                self.done[outcome] += 1
                self.images += images

    def _predict(self, draw: random.Random) -> tuple[str, int]:
        if draw.randrange(BAD_EVERY) == 0:
            try:
                self._pipeline.predict(_bad(self._images, draw))
            except PurifyError:
                return "refused", 0
            return "bad input taken", 0
        rows = [draw.randrange(len(self._images)) for _ in range(draw.randint(1, self._batch))]
        found = self._pipeline.predict(self._images[rows])
        return ("good" if self._alike(found, rows) else "another answer"), len(rows)

    def _alike(self, found: Prediction, rows: list[int]) -> bool:
        """Return whether it is the answer to the same images one by one; two classes may tie within the tolerance."""
        expected = self._expected.probabilities[rows]
        named = expected[np.arange(len(rows)), found.labels]
        return bool(
            np.allclose(found.probabilities, expected, rtol=0, atol=TOLERANCE)
            and np.allclose(found.purified, self._expected.purified[rows], rtol=0, atol=TOLERANCE)
            and (named >= expected.max(axis=1) - 2 * TOLERANCE).all()
        )

    def problems(self) -> list[str]:
        """Return what went wrong; nothing if all is well."""
        found = [f"{count:,} x {kind}" for kind, count in self.done.items() if kind not in ("good", "refused")]
        growth = self.rss_mib[1] - self.rss_mib[0]
        if growth > MAX_GROWTH_MIB:
            found.append(f"memory grew by {growth:.1f} MiB, limit {MAX_GROWTH_MIB}")
        return found


def _single(pipeline: Pipeline, images: NDArray[np.uint8]) -> Prediction:
    """Return the answers one by one, in one thread."""
    answers = [pipeline.predict(images[index : index + 1]) for index in range(len(images))]
    return Prediction(
        np.concatenate([answer.labels for answer in answers]),
        np.concatenate([answer.probabilities for answer in answers]),
        np.concatenate([answer.purified for answer in answers]),
    )


def _bad(images: NDArray[np.uint8], draw: random.Random) -> NDArray[np.generic]:
    """Return images of another rank, shape, dtype or range, or none at all."""
    floats = images[:2].transpose(0, 3, 1, 2) / np.float32(255)
    broken = floats.copy()
    broken.flat[draw.randrange(broken.size)] = draw.choice([np.nan, np.inf, -0.5, 1.5])
    kinds: list[NDArray[np.generic]] = [broken, images[:0], images[None], images[:2].astype(np.int32)]
    return draw.choice([*kinds, floats[:, :, 1:]])


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--predictions", default=200_000, show_default=True, type=click.IntRange(min=10))
@click.option("--threads", default=4, show_default=True, type=click.IntRange(min=1))
@click.option("--batch", default=8, show_default=True, help="Largest; sizes are drawn evenly from 1 to it.")
@click.option("--engine", default="auto", show_default=True)
def main(bundle: Path, predictions: int, threads: int, batch: int, engine: str) -> None:
    """Predict and print as JSON what came of it; exit code 1 if anything went wrong, or memory grew."""
    images = load_golden(Bundle.open(bundle))["adversarial"].images
    begin = time.perf_counter()
    with Pipeline.load(bundle, engine=engine) as pipeline:
        soak = Soak(pipeline, images, predictions=predictions, batch=batch)
        soak.run(threads)
    problems = soak.problems()
    result = {
        "predictions": sum(soak.done.values()),
        "images": soak.images,
        "threads": threads,
        "largest_batch": batch,
        "outcomes": dict(soak.done),
        "resident_mib": [round(value, 1) for value in soak.rss_mib],
        "seconds": round(time.perf_counter() - begin, 1),
        "problems": problems,
    }
    print(json.dumps(result, indent=2))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
