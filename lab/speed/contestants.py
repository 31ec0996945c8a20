"""The contestants: our pipeline, its engines alone, the same by hand, and those that an installed package adds."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lab.speed.by_hand import LIBRARIES
from lab.speed.rounds import Call, Images
from purify_edge.bundle.reader import Bundle
from purify_edge.engines.base import in_batches
from purify_edge.errors import MissingError
from purify_edge.images.arrays import as_batch
from purify_edge.pipeline.pipeline import Pipeline

LABELS, PREDICT, SCORED = "labels", "predict", "predict, scored"
BARE_LABELS, BARE_PREDICT = "labels: engine alone", "predict: engine alone"
SGEMM = "sgemm"
SGEMM_SIZE = 768
HAND = "by hand: "
EAGER, COMPILED = "PyTorch", "torch.compile"


@dataclass
class Contestants:
    """Calls by name, images uint8 `[N, H, W, C]` in."""

    calls: dict[str, Call] = field(default_factory=dict)  # what is timed
    not_run: dict[str, str] = field(default_factory=dict)  # who is left out, and why
    settings: str = ""  # what the pipeline runs, as text


def gather(
    path: Path,
    precision: str,
    engine: str,
    run: str | None,
    stack: ExitStack,
    *,
    added: Mapping[str, Call] | None = None,
) -> Contestants:
    """Open everyone; see `bench`. `stack` closes them."""
    found = Contestants()
    found.calls = dict(_ours(path, precision, engine, stack, found))
    bundle = Bundle.open(path)
    chained = [bundle.read(bundle.model(role, precision).file) for role in ("purifier", "classifier")]
    composed = [bundle.read(bundle.model("defended", precision).file)]
    for library in LIBRARIES:
        try:
            for title, graphs in (("composed", composed), ("chained", chained)):
                for name, call in LIBRARIES[library](graphs):
                    found.calls[f"{HAND}{name}, {title}"] = call
        except MissingError as error:
            found.not_run[f"{HAND}{library}"] = str(error)
    if added is not None:
        found.calls |= added
    elif run is None:
        found.not_run |= dict.fromkeys((EAGER, COMPILED), "no --run")
    else:
        from lab.speed.pytorch import contestants as of_pytorch

        found.calls |= of_pytorch(run)
    matrix = np.random.default_rng(0).random((SGEMM_SIZE, SGEMM_SIZE), np.float32)
    found.calls[SGEMM] = lambda _: matrix @ matrix
    return found


def _ours(path: Path, precision: str, engine: str, stack: ExitStack, found: Contestants) -> Iterator[tuple[str, Call]]:
    pipeline = stack.enter_context(Pipeline.load(path, engine=engine, precision=precision, suspicion=False))
    found.settings = str(pipeline.plan)
    yield LABELS, pipeline.labels
    yield PREDICT, pipeline.predict
    scored = stack.enter_context(Pipeline.load(path, engine=engine, precision=precision))
    if scored.suspicion:
        yield SCORED, scored.predict
    planned, floats = pipeline.planned, {}

    def prepared(images: Images) -> NDArray[np.float32]:
        if len(images) not in floats:
            floats[len(images)] = as_batch(images, pipeline.input)
        return floats[len(images)]

    yield BARE_LABELS, lambda images: in_batches(planned.logits, prepared(images))
    yield (
        BARE_PREDICT,
        lambda images: [planned.both(prepared(images)[start : start + 64]) for start in range(0, len(images), 64)],
    )
