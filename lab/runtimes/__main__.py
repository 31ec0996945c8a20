"""Print how far other runtimes agree with PyTorch on a bundle's golden set: `python -m lab.runtimes BUNDLE`.

Needs what is to be looked at: `pip install opencv-python-headless MNN ncnn pnnx`, and for the web `npm install
onnxruntime-web` in the current folder, and node.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from lab.runtimes.child import RUNTIMES, Array
from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.manifest import SpareEntry
from purify_edge.bundle.reader import Bundle
from purify_edge.images.arrays import as_batch
from purify_edge.pipeline.prediction import softmax
from purify_edge.pipeline.sparing import spare

PACKAGES = {"OpenCV": ("opencv-python-headless",), "MNN": ("MNN",), "ncnn": ("ncnn", "pnnx")}
WEB = Path("node_modules/onnxruntime-web/package.json")
OUTPUTS = {"defended": "logits", "served": "probabilities"}
"""Role of a graph -> what is asked of it."""
TIMEOUT_S = 600
SPLITS = ("clean", "adversarial", "noise")


def asked(runtime: str, graph: Path, output: str, images: Array) -> Array | str:
    """Return the answers `[N, K]`, or the last that the runtime said where there are none."""
    with tempfile.TemporaryDirectory() as folder:
        given, got = Path(folder) / "images.npy", Path(folder) / "answers.npy"
        np.save(given, images)
        files = map(str, (graph, output, given, got))
        command = [sys.executable, "-m", "lab.runtimes.child", runtime, *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        if got.is_file():
            return np.asarray(np.load(got), np.float32)
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        return said[-1].strip().removeprefix("ValueError: ") if said else f"exit code {done.returncode}"


def versions_of(runtime: str) -> str:
    """Return the versions of a runtime's packages."""
    try:
        if runtime not in PACKAGES:
            return str(json.loads(WEB.read_text())["version"])
        return ", pnnx ".join(version(package) for package in PACKAGES[runtime])
    except (OSError, PackageNotFoundError):
        return "(not installed)"


def reference(split: GoldenSplit, role: str, rule: SpareEntry | None) -> Array:
    """Return PyTorch's logits of a split; for a served graph probabilities, by the rule if it spares clean images."""
    if role != "served":
        return split.defended
    return softmax(spare(split.classifier, split.defended, rule) if rule else split.defended)


def cells(
    answers: Array, golden: Mapping[str, GoldenSplit], role: str, rule: SpareEntry | None = None
) -> Iterator[str]:
    """Yield the agreement with PyTorch's classes on each split, and the largest difference of a number."""
    expected = {name: reference(golden[name], role, rule) for name in SPLITS}
    parts = np.split(answers, np.cumsum([len(part) for part in expected.values()])[:-1])
    for part, wanted in zip(parts, expected.values(), strict=True):
        yield f"{np.mean(part.argmax(axis=1) == wanted.argmax(axis=1)):.1%}"
    yield f"{max(float(abs(part - wanted).max()) for part, wanted in zip(parts, expected.values(), strict=True)):.2g}"


def rows(bundle: Bundle, runtimes: Sequence[str]) -> Iterator[str]:
    """Yield the rows of a Markdown table, one a runtime and graph."""
    golden = load_golden(bundle)
    images = np.concatenate([as_batch(golden[name].images, bundle.manifest.input) for name in SPLITS])
    yield f"| runtime | graph | {' | '.join(SPLITS)} | largest difference |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for runtime in runtimes:
        for role, output in OUTPUTS.items():
            for precision in bundle.precisions(role):
                model = bundle.model(role, precision)
                bundle.read(model.file)
                answers = asked(runtime, bundle.path / model.file.path, output, images)
                rule = bundle.manifest.spare if model.spare_clean else None
                told = [answers, "", "", ""] if isinstance(answers, str) else cells(answers, golden, role, rule)
                yield f"| {runtime} {versions_of(runtime)} | `{role}.{precision}` | {' | '.join(told)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runtime", choices=RUNTIMES, action="append", help="may be repeated; default all")
    options = parser.parse_args(arguments)
    for row in rows(Bundle.open(options.bundle), options.runtime or list(RUNTIMES)):
        print(row, flush=True)


if __name__ == "__main__":
    main()
