"""The bundle of a report, with examples of what its first engine made of golden images."""

from collections.abc import Mapping

from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.reader import Bundle
from purify_edge.check.comparison import Comparison
from purify_edge.check.page.checked_bundle import CheckedBundle
from purify_edge.check.page.examples import EXAMPLES, Shown, examples_of
from purify_edge.pipeline.prediction import softmax


def subject_of(bundle: Bundle, golden: Mapping[str, GoldenSplit], first: Comparison) -> CheckedBundle:
    """Return the bundle and its first golden images, with what the first engine of a check made of them.

    Args:
        bundle: the bundle.
        golden: its golden set.
        first: what the engine made of that.
    """
    if not {"clean", "adversarial"} <= golden.keys():
        return CheckedBundle(bundle.manifest, verified=bundle.verified)
    alone, outputs = {}, first.outputs
    for split in ("clean", "adversarial"):
        alone[split] = golden[split].images[:EXAMPLES], softmax(outputs["classifier", split][:EXAMPLES])
    purified = outputs["purifier", "adversarial"][:EXAMPLES], softmax(outputs["pipeline", "adversarial"][:EXAMPLES])
    shown: dict[str, Shown] = {**alone, "purified": purified}
    labels, names = golden["clean"].labels, bundle.manifest.class_names
    return CheckedBundle(bundle.manifest, examples_of(shown, labels, names), bundle.verified)
