"""The suspicion score's threshold, from what a run's PyTorch networks make of clean images."""

from collections.abc import Callable

from torch import nn

from purify_edge.bundle.manifest import SuspicionEntry
from purify_edge.pipeline.suspicion import FALSE_POSITIVE_RATE, calibrate, suspicion_of
from purify_export.golden import reference
from purify_toolkit.runs.folder import Samples


def threshold_of(
    classifier: nn.Module, purifier: nn.Module, samples: Samples, *, source: str, tell: Callable[[str], None]
) -> SuspicionEntry | None:
    """The threshold that 1% of clean images exceed; None, and `tell` is told so, where the samples are too few.

    Args:
        classifier, purifier: float32, in evaluation mode, on the CPU.
        samples: clean, none of the golden set.
        source: where they came from.
        tell: told what to do where there is no threshold.
    """
    if len(samples.labels):
        made = reference(classifier, purifier, samples.images, samples.labels)
        entry = calibrate(suspicion_of(made.classifier, made.defended), source=source)
        if entry:
            return entry
    tell(
        f"no suspicion score: {len(samples.labels)} clean images do not set a threshold for {FALSE_POSITIVE_RATE:.0%} "
        "false positives, 99 or more do; --data names a folder with more"
    )
    return None
