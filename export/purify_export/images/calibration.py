"""What is set on images that the golden set does not have: INT8's ranges and the suspicion score's threshold."""

import msgspec
import numpy as np

from purify_edge.bundle.manifest import SuspicionEntry
from purify_edge.errors import InputError
from purify_edge.pipeline.suspicion import FALSE_POSITIVE_RATE, calibrate, suspicion_of
from purify_export.convert.amounts import CALIBRATION
from purify_export.convert.image_set import Calibration, ImageSet
from purify_export.images.golden import attacked, reference
from purify_export.networks import Networks
from purify_export.progress import Tell, silent
from purify_toolkit.data.splits import Split
from purify_toolkit.recipe import EvaluationTable

MIN_CALIBRATION = 32
STEPS = 5  # of the attack, at most: it goes as far in longer ones


def check_calibration(others: Split, tell: Tell = silent) -> None:
    """Raise InputError where there are too few images to calibrate INT8 on; `tell` is told where they are few."""
    if len(others) < MIN_CALIBRATION:
        raise InputError(
            f"INT8 is calibrated on {MIN_CALIBRATION} images or more that are not in the golden set, the golden set "
            f"leaves {len(others)}; give more images (purify-export: --data names the dataset's folder)"
        )
    wanted = CALIBRATION.of(others.images.shape[1:])
    if len(others) < wanted:
        tell(
            f"only {len(others)} images to calibrate INT8 on, {wanted} are wanted: ranges may be too narrow, "
            "and one answer that turns weighs more; give more images (purify-export: --data names a folder with more)"
        )


def calibration_of(
    networks: Networks, others: Split, table: EvaluationTable, *, seed: int, note: Tell = silent
) -> Calibration:
    """Return the first 512 images, or fewer large ones, every second one attacked, as the golden set's are.

    Clean images alone would set the ranges of layers that adversarial images exceed.
    """
    few = others[: CALIBRATION.of(others.images.shape[1:])]
    clean, other = few[::2], few[1::2]
    steps = min(STEPS, table.steps)
    short = msgspec.structs.replace(table, steps=steps, relative_step=table.relative_step * table.steps / steps)
    adversarial = attacked(networks.classifier, other.images, other.labels, short, seed=seed + 1, note=note)
    return {"clean": ImageSet.of(clean.images, clean.labels), "adversarial": ImageSet.of(adversarial, other.labels)}


def threshold_of(
    networks: Networks, others: Split, *, source: str, tell: Tell, note: Tell = silent
) -> SuspicionEntry | None:
    """Return the threshold that 1% of clean images exceed; None, and `tell` is told so, where there are too few."""
    good, entry = 0, None
    if len(others):
        made = reference(networks, others.images, others.labels, note=note)
        scores = suspicion_of(made.classifier, made.defended)
        good, entry = int(np.isfinite(scores).sum()), calibrate(scores, source=source)
    lost = len(others) - good
    without = f" (for {lost} more the classifier gives logits that are not finite)" if lost else ""
    if entry is None:
        tell(
            f"no suspicion score: {good} clean images{without} do not set a threshold for {FALSE_POSITIVE_RATE:.0%} "
            "false positives, 99 or more do; give more images (purify-export: --data names a folder with more)"
        )
    elif lost:
        tell(f"the suspicion score's threshold is set by {good} clean images{without}")
    return entry
