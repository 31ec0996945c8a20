"""Count the changes of a single weight that purify-check's limit of error catches, in each precision.

python -m lab.studies.changed_weights BUNDLE [--images 64] [--weights 2]

Of each layer of purifier and classifier some weights are drawn at random, and each is changed in four ways; the first
images of each split of the golden set judge. Prints a Markdown table of the shares that were caught.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from lab.studies.common import guarded, markdown, positive, study_parser
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.check.limits import MAX_ERROR
from purify_edge.engines.base import in_batches
from purify_edge.engines.onnxruntime import OnnxRuntimeEngine
from purify_edge.images.arrays import as_batch
from purify_edge.stats import relative_error

Array = NDArray[np.float32]
Judges = list[tuple[Array, Array]]
"""Images `[N, C, H, W]`, and what PyTorch makes of them."""

CHANGES: dict[str, Callable[[float, float], float]] = {
    "set to 0": lambda weight, spread: 0.0,
    "sign turned": lambda weight, spread: -weight,
    "one standard deviation larger": lambda weight, spread: weight + spread,
    "ten larger": lambda weight, spread: weight + 10 * spread,
}
PRECISIONS = ("fp32", "fp16", "int8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = study_parser(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=positive, default=64)
    parser.add_argument("--weights", type=positive, default=2)
    options = parser.parse_args(arguments)
    bundle = Bundle.open(options.bundle, allow_failed=True)
    print(table(bundle, images=options.images, weights=options.weights), end="")


def table(bundle: Bundle, *, images: int, weights: int) -> str:
    """Return a row for each precision: how many changes of each kind exceed the limit of error on one split or more."""
    rows = []
    for precision in (name for name in PRECISIONS if name in bundle.precisions("defended")):
        caught: dict[str, list[bool]] = {kind: [] for kind in CHANGES}
        for role in ("purifier", "classifier"):
            judges = judges_of(bundle, role, images)
            model = onnx.load_model_from_string(bundle.read(bundle.model(role, precision).file))
            for kind, error in errors(model, judges, weights):
                caught[kind].append(not error <= MAX_ERROR[precision])
        shares = (f"{100 * sum(found) / len(found):.0f}% of {len(found)}" for found in caught.values())
        rows.append([precision, f"{MAX_ERROR[precision]:g}", *shares])
    return markdown(["precision", "limit", *CHANGES], rows)


def judges_of(bundle: Bundle, role: str, count: int) -> Judges:
    """Return the first images of each split, and the reference's output of a role."""
    fields = {"purifier": "purified", "classifier": "classifier"}
    return [
        (as_batch(split.images[:count], bundle.manifest.input), getattr(split, fields[role])[:count])
        for split in load_golden(bundle).values()
    ]


def errors(model: onnx.ModelProto, judges: Judges, weights: int) -> Iterator[tuple[str, float]]:
    """Yield the kind of each change of a single weight, and the largest relative error of any split."""
    generator = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if ".weight" not in tensor.name or values.size < 4 or tensor.name.endswith(("_scale", "_zero_point")):
            continue
        for place in generator.choice(values.size, weights, replace=False):
            for kind, change in CHANGES.items():
                changed = values.astype(np.float64)
                changed.flat[place] = change(changed.flat[place], changed.std())
                if values.dtype == np.int8:
                    changed = changed.round().clip(-127, 127)
                if (changed.astype(values.dtype) != values).any():
                    yield kind, _error(model, tensor, changed.astype(values.dtype), judges)


def _error(model: onnx.ModelProto, tensor: onnx.TensorProto, changed: NDArray[np.generic], judges: Judges) -> float:
    """Return the error with a tensor changed, and put the tensor back."""
    kept = tensor.SerializeToString()
    tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    with OnnxRuntimeEngine(model.SerializeToString(), source="the changed model") as engine:
        found = max(relative_error(in_batches(engine.run, images), reference) for images, reference in judges)
    tensor.ParseFromString(kept)
    return found


if __name__ == "__main__":
    guarded(main)
