"""Print how fast OpenCV's DNN runs a bundle's graphs beside ONNX Runtime: `python -m lab.runtimes.speed BUNDLE`.

Both in one process, with the same number of threads, by turns; needs `pip install opencv-python-headless`.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lab.runtimes.__main__ import versions_of
from lab.runtimes.child import Array
from lab.speed.rounds import Call, measure
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.check.check import some_images
from purify_edge.engines.onnxruntime import require
from purify_edge.errors import MissingError
from purify_edge.images.arrays import as_batch
from purify_edge.machine import cores

BATCHES = (1, 8, 32)
OURS, THEIRS = "ONNX Runtime", "OpenCV"
OUTPUT, INPUT = "logits", "images"


def _of_onnxruntime(graph: Path, threads: int) -> Callable[[Array], Array]:
    options = require().SessionOptions()
    options.intra_op_num_threads = threads
    session = require().InferenceSession(graph.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run([OUTPUT], {INPUT: x})[0], np.float32)


def _of_opencv(graph: Path, threads: int) -> Callable[[Array], Array]:
    try:
        cv2: Any = import_module("cv2")
    except ImportError as error:
        raise MissingError(f"needs OpenCV: pip install opencv-python-headless ({error})") from error
    cv2.setNumThreads(threads)
    network = cv2.dnn.readNetFromONNX(str(graph))

    def run(x: Array) -> Array:
        network.setInput(x, INPUT)
        return np.asarray(network.forward(OUTPUT), np.float32)

    return run


def rows(bundle: Bundle, *, batches: Sequence[int], threads: int, rounds: int, budget_s: float) -> Iterator[str]:
    """Yield the rows of a Markdown table, one a precision and size of batch."""
    version = import_module("onnxruntime").__version__
    names = f"{OURS} {version}, ms | {THEIRS} {versions_of(THEIRS)}, ms"
    yield f"| graph | batch | rounds | {names} | times as long | logits |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    clean = load_golden(bundle)["clean"]
    for precision in bundle.precisions("defended"):
        entry = bundle.model("defended", precision)
        bundle.read(entry.file)
        graph = bundle.path / entry.file.path
        ours, theirs = _of_onnxruntime(graph, threads), _of_opencv(graph, threads)
        for batch in batches:
            images = some_images(clean, batch)
            x = as_batch(images, bundle.manifest.input)
            calls: dict[str, Call] = {THEIRS: _call(theirs, x), OURS: _call(ours, x)}
            off = float(abs(ours(x) - theirs(x)).max())
            slow, fast = measure(calls, images, rounds=rounds, budget_s=budget_s, reference=OURS)
            low, high = slow.ratio_quartiles
            yield (
                f"| `defended.{precision}` | {batch} | {slow.n} | {fast.p50_ms:.2f} | {slow.p50_ms:.2f} | "
                f"{slow.ratio:.2f} ({low:.2f} to {high:.2f}) | within {off:.2g} |"
            )


def _call(run: Callable[[Array], Array], x: Array) -> Call:
    return lambda images: run(x)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batch", type=int, action="append", help="may be repeated; default 1, 8 and 32")
    parser.add_argument("--threads", type=int, default=cores(), help="of each; default as many as there are cores")
    parser.add_argument("--rounds", type=int, default=60, help="at most, for each row; default 60")
    parser.add_argument("--budget", type=float, default=20.0, metavar="SECONDS", help="for each row; default 20")
    options = parser.parse_args(arguments)
    bundle = Bundle.open(options.bundle)
    batches, threads = options.batch or BATCHES, options.threads
    for row in rows(bundle, batches=batches, threads=threads, rounds=options.rounds, budget_s=options.budget):
        print(row, flush=True)


if __name__ == "__main__":
    main()
