"""What is set on images that the golden set does not have: INT8's ranges, and thresholds for suspicion and sparing."""

from dataclasses import dataclass, replace

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.manifest import BenignChange, SpareEntry, SuspicionEntry
from purify_edge.errors import InputError
from purify_edge.pipeline.sparing import calibrate_spare, does_harm, spare
from purify_edge.pipeline.suspicion import FALSE_POSITIVE_RATE, calibrate, is_suspicious, suspicion_of
from purify_export.convert.amounts import BENIGN, CALIBRATION
from purify_export.convert.image_set import Calibration, ImageSet
from purify_export.images.golden import attacked, reference
from purify_export.networks import Networks
from purify_export.progress import Tell, silent
from purify_toolkit.attacks.corruptions import CORRUPTIONS
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.pixels import to_8bit, to_float
from purify_toolkit.data.splits import Split
from purify_toolkit.recipe import EvaluationTable

MIN_CALIBRATION = 32
STEPS = 5  # of the attack, at most: it goes as far in longer ones


@dataclass(frozen=True)
class Thresholds:
    """What clean images set; None where there are too few of them."""

    suspicion: SuspicionEntry | None
    spare: SpareEntry | None


def check_calibration(others: Split, tell: Tell = silent) -> None:
    """Raise InputError where there are too few images to calibrate INT8 on; warn by `tell` where they are few."""
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
    attack, steps = PGD.of(table), min(STEPS, table.steps)
    short = replace(attack, steps=steps, relative_step=attack.relative_step * attack.steps / steps)
    adversarial = attacked(networks.classifier, other.images, other.labels, short, seed=seed + 1, note=note)
    return {"clean": ImageSet.of(clean.images, clean.labels), "adversarial": ImageSet.of(adversarial, other.labels)}


def thresholds_of(
    networks: Networks,
    others: Split,
    judging: Split,
    attack: PGD,
    *,
    source: str,
    seed: int,
    tell: Tell,
    note: Tell = silent,
) -> Thresholds:
    """Return the thresholds that the clean images `others` set; see `threshold_of` and `spare_of`."""
    calm = reference(networks, others.images, others.labels, note=note) if len(others) else None
    return Thresholds(
        threshold_of(networks, others, calm, judging, source=source, seed=seed, tell=tell, note=note),
        spare_of(networks, calm, judging, attack, source=source, seed=seed, tell=tell, note=note) if calm else None,
    )


def threshold_of(
    networks: Networks,
    others: Split,
    calm: GoldenSplit | None,
    judging: Split,
    *,
    source: str,
    seed: int,
    tell: Tell,
    note: Tell = silent,
) -> SuspicionEntry | None:
    """Return the threshold that 1% of clean images exceed, and 5% of benignly changed ones; tried on `judging`.

    `calm` is what the networks make of `others`, None for no images. None, with a message to `tell`, where there are
    too few.
    """
    scores = suspicion_of(calm.classifier, calm.defended) if calm else np.zeros(0, np.float32)
    good = int(np.isfinite(scores).sum())
    lost = len(others) - good
    without = f" (for {lost} more the classifier gives logits that are not finite)" if lost else ""
    if calibrate(scores, source=source) is None:
        tell(
            f"no suspicion score: {good} clean images{without} do not set a threshold for {FALSE_POSITIVE_RATE:.0%} "
            "false positives, 99 or more do; give more images (purify-export: --data names a folder with more)"
        )
        return None
    if lost:
        tell(f"the suspicion score's threshold is set by {good} clean images{without}")
    few = BENIGN.of(others.images.shape[1:])
    benign = {name: _scores(networks, changed(others[:few], name, seed=seed), note) for name in CORRUPTIONS}
    entry = calibrate(scores, source=source, benign=benign)
    assert entry is not None
    found, seen = [], judging[:few]
    for name in CORRUPTIONS:
        flagged = is_suspicious(_scores(networks, changed(seen, name, seed=seed + 1), note), entry.threshold)
        found.append(BenignChange(change=name.replace("_", " "), n=len(seen), flagged=float(flagged.mean())))
    return msgspec.structs.replace(entry, benign=tuple(found))


def spare_of(
    networks: Networks,
    calm: GoldenSplit,
    judging: Split,
    attack: PGD,
    *,
    source: str,
    seed: int,
    tell: Tell,
    note: Tell = silent,
) -> SpareEntry | None:
    """Return the threshold that 5% of clean images exceed, to spare the others by; None where there are too few.

    `calm` is what the networks make of clean images outside the golden set. The rule is tried on images of `judging`
    after a weak attack, in short steps from the image until the classifier errs. Where it costs more than a quarter of
    the right answers, or there are too few images, there is no threshold, and `tell` gets a message.
    """
    entry = calibrate_spare(calm.classifier, calm.defended, source=source)
    if entry is None:
        tell(f"no --spare-clean: it takes 19 clean images outside the golden set, there are {len(calm)}")
        return None
    few = judging[: BENIGN.of(judging.images.shape[1:])]
    images = attacked(networks.classifier, few.images, few.labels, attack.weak, seed=seed, note=note)
    seen = reference(networks, images, few.labels, note=note)
    answers = (seen.defended, spare(seen.classifier, seen.defended, entry))
    purified, spared = (int((logits.argmax(1) == seen.labels).sum()) for logits in answers)
    if not does_harm(spared, purified):
        return entry
    tell(
        f"no --spare-clean: of {len(few)} images attacked until the classifier errs {spared} would be right with it, "
        f"{purified} are without; purification changes weakly attacked images as little as clean ones (docs/sparing.md)"
    )
    return None


def _scores(networks: Networks, split: Split, note: Tell) -> NDArray[np.float32]:
    made = reference(networks, split.images, split.labels, note=note)
    return suspicion_of(made.classifier, made.defended)


def changed(split: Split, name: str, *, seed: int) -> Split:
    """Return the images after a common corruption, severities 1 to 3 in turn."""
    images, generator = split.images.clone(), torch.Generator().manual_seed(seed)
    for severity in (1, 2, 3):
        some = images[severity - 1 :: 3]
        if len(some):
            images[severity - 1 :: 3] = to_8bit(CORRUPTIONS[name](to_float(some), severity, generator))
    return Split(images, split.labels)
