"""Comparison: what an engine makes of the golden set, beside what PyTorch made of it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import SPARED, ParityRow
from purify_edge.engines.base import BATCH, Array, in_batches
from purify_edge.engines.models import Models
from purify_edge.errors import BundleError, PurifyError
from purify_edge.images.arrays import as_batch
from purify_edge.pipeline.prediction import answers_of
from purify_edge.pipeline.sparing import spare
from purify_edge.pipeline.suspicion import suspicion_of
from purify_edge.stats import agreeing, relative_error, wilson

Run = Callable[[Array], Array]

VALUES = 16 * 3 * 224 * 224  # of the images that run together: engines of several kinds are open beside each other
ALONE = 4  # images of a split that are run one by one too


@dataclass(frozen=True)
class EngineSet:
    """The models of one precision in one engine: `purifier`, `classifier`, `defended`, and the chained `pipeline`."""

    engine: str
    version: str
    device: str
    precision: str
    stages: Mapping[str, Run]

    @classmethod
    def of(cls, models: Models) -> "EngineSet":
        """Return the set of models that are run one way.

        Raises:
            BundleError, MissingError, BuildError: see `open_model`.
        """
        pair, defended = models.pair, models.engine("defended")
        stages = {
            "purifier": pair.purify,
            "classifier": pair.classify,
            "pipeline": pair.logits,
            "defended": defended.run,
        }
        return cls(models.setup.engine, defended.version, defended.device, models.setup.precision, stages)


@dataclass(frozen=True)
class Comparison:
    """What an engine set made of the golden set, by split, or by role and split; see `answers_of`."""

    rows: list[ParityRow] = field(default_factory=list)
    answers: dict[tuple[str, str], NDArray[np.int64]] = field(default_factory=dict)
    scores: dict[str, Array] = field(default_factory=dict)  # of suspicion, by the chained models
    outputs: dict[tuple[str, str], Array] = field(default_factory=dict)


def compare(engines: EngineSet, golden: Mapping[str, GoldenSplit], bundle: Bundle) -> Comparison:
    """Run the golden set, split by split, and compare it with the reference."""
    found, entry, sparing = Comparison(), bundle.manifest.suspicion, bundle.manifest.spare
    for name, split in golden.items():
        images = as_batch(split.images, bundle.manifest.input)
        outputs = {role: _output(run, images, f"{engines.precision} {role}") for role, run in engines.stages.items()}
        references = {"purifier": split.purified, "classifier": split.classifier}
        for role, output in outputs.items():
            found.outputs[role, name] = output
            reference = references.get(role, split.defended)
            row = parity_row(engines, role, name, output, reference, split.labels)
            error = _alone_error(engines.stages[role], images, output, f"{engines.precision} {role}")
            found.rows.append(msgspec.structs.replace(row, alone_error=error))
            if role != "purifier":
                found.answers[role, name] = answers_of(output)
        if sparing:
            output, expected = (
                spare(*pair, sparing)
                for pair in ((outputs["classifier"], outputs["pipeline"]), (split.classifier, split.defended))
            )
            row = parity_row(engines, SPARED, name, output, expected, split.labels)
            found.rows.append(msgspec.structs.replace(row, relative_error=None))  # see SPARED
            found.answers[SPARED, name] = answers_of(output)
        if entry:
            found.scores[name] = suspicion_of(outputs["classifier"], outputs["pipeline"], entry.score)
    return found


def _alone_error(run: Run, images: Array, output: Array, what: str) -> float:
    """Return the relative error of the outputs of a few images, each run alone, to what they were in the batch."""
    count = min(ALONE, len(images))
    alone = [_output(run, images[index : index + 1], what) for index in range(count)]
    return relative_error(np.concatenate([*alone, output[count:]]), output) * math.sqrt(len(output) / count)


def _output(run: Run, images: Array, what: str) -> Array:
    try:
        return in_batches(run, images, batch=max(1, min(BATCH, VALUES // math.prod(images.shape[1:]))))
    except (PurifyError, MemoryError):
        raise
    except Exception as error:  # engines' exceptions share no base but Exception
        raise BundleError(f"the {what} cannot run the golden set: {error}; export the bundle again") from error


def parity_row(
    engines: EngineSet, role: str, split: str, output: Array, reference: Array, labels: NDArray[np.int64]
) -> ParityRow:
    """Compare an output of one of the models with the reference's, which may be there of the first images alone."""
    n = len(reference)
    output, labels = output[:n], labels[:n]
    difference = np.abs(output - reference)
    row = ParityRow(
        engine=engines.engine,
        precision=engines.precision,
        role=role,
        split=split,
        n=n,
        max_abs_diff=float(difference.max()),
        mean_abs_diff=float(difference.mean()),
        relative_error=relative_error(output, reference),
        device=engines.device,
    )
    if role == "purifier":
        return row
    said, expected = answers_of(output), reference.argmax(axis=1)
    same = int(agreeing(said, reference).sum())
    return msgspec.structs.replace(
        row,
        accuracy_reference=float((expected == labels).mean()),
        accuracy_engine=float((said == labels).mean()),
        agreement=same / n,
        agreement_ci95=wilson(same, n),
    )
