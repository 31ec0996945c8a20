"""The check of served graphs, which other programs run: what ONNX Runtime makes of the golden set by them here."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.manifest import ModelEntry
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Check, NotChecked
from purify_edge.check.limits import MAX_ERROR, MIN_AGREEMENT, Limits, agreement, at_most, share_at_most
from purify_edge.engines.base import BATCH, Array
from purify_edge.engines.onnxruntime import all_outputs
from purify_edge.errors import BundleError, MissingError
from purify_edge.images.arrays import as_batch
from purify_edge.pipeline.prediction import answers_of
from purify_edge.pipeline.sparing import answering, is_spared
from purify_edge.pipeline.suspicion import NEW, is_suspicious, suspicion_of
from purify_edge.stats import agreeing, relative_error

OUTPUTS = {"probabilities", "suspicion", "purified"}
ENGINE = "onnxruntime"


def served_checks(
    bundle: Bundle, golden: Mapping[str, GoldenSplit], precisions: Sequence[str], limits: Limits
) -> tuple[list[Check], list[NotChecked]]:
    """Return the limits of the served graphs of some precisions, and which of these cannot run here.

    In float32 errors show a graph that is put together wrongly; in others they are those of purifier and classifier,
    which have limits of their own.

    Raises:
        BundleError: a graph is damaged, or does not give what it is to give.
    """
    checks: list[Check] = []
    left: list[NotChecked] = []
    for model in bundle.manifest.models:
        if model.role != "served" or model.precision not in precisions:
            continue
        try:
            run = all_outputs(bundle.read(model.file), source=model.file.path)
        except MissingError as error:
            left.append(NotChecked(engine=ENGINE, precision=model.precision, reason=f"served: {error}"))
            continue
        for name, split in golden.items():
            checks += _checks(bundle, model, run, name, split, limits)
    return checks, left


def _checks(
    bundle: Bundle,
    model: ModelEntry,
    run: Callable[[NDArray[Any]], dict[str, Array]],
    name: str,
    split: GoldenSplit,
    limits: Limits,
) -> Iterator[Check]:
    images = split.images if model.pixels == "uint8" else as_batch(split.images, bundle.manifest.input)
    try:
        parts = [run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        outputs = OUTPUTS | {"spared"} if model.spare_clean else OUTPUTS
        found = {output: np.concatenate([part[output] for part in parts]) for output in outputs}
    except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
        raise BundleError(f"{model.file.path} cannot run the golden set: {error}; export the bundle again") from error
    where, entry = f"{ENGINE} {model.precision} served {name}", bundle.manifest.suspicion
    spared, expected_spared = (np.zeros(len(split), bool) for _ in range(2))
    if model.spare_clean and bundle.manifest.spare:
        spared = found["spared"] > 0
        expected_spared = is_spared(split.classifier, split.defended, bundle.manifest.spare)
        change = float(abs(spared.mean() - expected_spared.mean()))
        yield share_at_most("change of what is spared", where, change, limits.max_flagged_change, len(split))
    same = agreeing(answers_of(found["probabilities"]), answering(expected_spared, split.classifier, split.defended))
    least = MIN_AGREEMENT[model.precision] if limits.min_agreement is None else limits.min_agreement
    yield agreement(float(same.mean()), len(split), least, where)
    expected = suspicion_of(split.classifier, split.defended, entry.score if entry else NEW)
    if model.precision == "fp32":
        references = {
            "probabilities": _softmax(answering(spared, split.classifier, split.defended)),
            "suspicion": expected,
            "purified": split.purified,
        }
        for output, reference in references.items():
            off = relative_error(found[output][: len(reference)], reference)
            limit = MAX_ERROR["fp32"] if limits.max_error is None else limits.max_error
            yield at_most(f"relative error of {output}, {where}", off, limit)
    if entry:
        flagged = [is_suspicious(scores, entry.threshold).mean() for scores in (found["suspicion"], expected)]
        change = float(abs(flagged[0] - flagged[1]))
        yield share_at_most("change of what is suspicious", where, change, limits.max_flagged_change, len(split))


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares
