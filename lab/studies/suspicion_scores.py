"""Compare scores that may tell attacked images from clean ones.

python -m lab.studies.suspicion_scores [RUN] --data DIR [--judge 512] [--calibrate 5000]

RUN is a run folder, or the name of a pair that ships; DIR holds its dataset. Test images judge, as 8-bit images, clean,
attacked on the classifier alone, and with noise; validation images set each score's threshold for 1% false positives.
White-box is PGD on purifier and classifier; it does not know the score. "Benign" are the common corruptions, severities
1 to 3 in turn: the share flagged under the worst of them and the mean over all. The second threshold is for 5% of
validation images after each of these too. Prints a Markdown table.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.studies.common import guarded, markdown, positive, study_parser
from purify_edge.bundle.golden import GoldenSplit
from purify_edge.errors import InputError
from purify_edge.pipeline.suspicion import calibrate, suspicion_of
from purify_export.convert.amounts import BENIGN
from purify_export.convert.convert import as_floats
from purify_export.images.calibration import changed
from purify_export.images.golden import attacked, noisy, reference
from purify_export.networks import Networks
from purify_toolkit.attacks.corruptions import CORRUPTIONS
from purify_toolkit.attacks.gradient import FGSM, PGD
from purify_toolkit.data.splits import Split
from purify_toolkit.networks.answers import Model
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import open_run

Array = NDArray[np.float32]


def softmax(logits: Array) -> Array:
    """Return the probabilities `[N, K]` of logits."""
    found: Array = torch.from_numpy(logits).softmax(1).numpy()
    return found


def divergence(first: Array, second: Array) -> Array:
    """Return Kullback and Leibler's divergence `[N]` between the probabilities of two sets of logits."""
    logs = [torch.from_numpy(logits).log_softmax(1).numpy() for logits in (first, second)]
    found: Array = (softmax(first) * (logs[0] - logs[1])).sum(axis=1)
    return found


def change(seen: GoldenSplit) -> Array:
    """Return the standard deviation of the logits' change, the score of older bundles."""
    return suspicion_of(seen.classifier, seen.defended, "logit-change")


def _residual(seen: GoldenSplit) -> Array:
    found: Array = np.abs(as_floats(seen.images) - seen.purified).mean(axis=(1, 2, 3))
    return found


SCORES: dict[str, Callable[[GoldenSplit], Array]] = {
    "logit change x margin before": lambda seen: suspicion_of(seen.classifier, seen.defended),
    "logit change, standard deviation": change,
    "KL(before, after)": lambda seen: divergence(seen.classifier, seen.defended),
    "KL(after, before)": lambda seen: divergence(seen.defended, seen.classifier),
    "total variation": lambda seen: np.abs(softmax(seen.classifier) - softmax(seen.defended)).sum(axis=1) / 2,
    "residual, mean of absolute values": _residual,
    "logit change x residual": lambda seen: change(seen) * _residual(seen),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = study_parser(__doc__)
    parser.add_argument("run", nargs="?")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--judge", type=positive, default=512)
    parser.add_argument("--calibrate", type=positive, default=5000)
    options = parser.parse_args(arguments)
    run = open_run(options.run)
    data, networks = load_data_of(run, options.data), Networks.load(run)
    test, validation = data.test[: options.judge], data.validation[: options.calibrate]
    sets = {name: reference(networks, images, test.labels) for name, images in images_of(run, networks, test)}
    few = validation[: BENIGN.of(validation.images.shape[1:])]
    tests, validations = ({name: _seen(networks, split, name) for name in CORRUPTIONS} for split in (test, few))
    calm = reference(networks, validation.images, validation.labels)
    print(table(sets, tests, calm, validations), end="")


def _seen(networks: Networks, split: Split, name: str) -> GoldenSplit:
    return reference(networks, changed(split, name, seed=len(split)).images, split.labels)


def images_of(run: RunFolder, networks: Networks, test: Split) -> Iterator[tuple[str, Tensor]]:
    """Yield 8-bit images, each set with what was done to it; the clean one first."""
    attack, epsilon, seed = PGD.of(run.recipe.evaluation), run.recipe.evaluation.epsilon, run.info["seed"]

    def after(how: PGD, model: Model = networks.classifier) -> Tensor:
        return attacked(model, test.images, test.labels, how, seed=seed)

    yield "clean", test.images
    for share in (1, 0.5, 0.2):
        yield f"PGD, {share * epsilon:g}", after(replace(attack, epsilon=share * epsilon))
    yield f"FGSM, {epsilon:g}", after(FGSM(epsilon=epsilon))
    yield f"white-box PGD, {epsilon:g}", after(attack, networks.defended)
    yield f"noise, {epsilon:g}", noisy(test.images, epsilon=epsilon, seed=seed)


def table(
    sets: Mapping[str, GoldenSplit],
    benign: Mapping[str, GoldenSplit],
    calibration: GoldenSplit,
    changes: Mapping[str, GoldenSplit],
) -> str:
    """Return two rows for each score, one a threshold: the shares of each set above it, then of benign images."""
    rows = []
    for name, score in SCORES.items():
        for how, others in (("clean", {}), ("benign too", changes)):
            scores = {kind: score(seen) for kind, seen in others.items()}
            entry = calibrate(score(calibration), source="validation images", benign=scores)
            if entry is None:
                raise InputError("there are too few images to calibrate on, 99 at least; give more by --calibrate")
            flagged = [100 * float((score(seen) > entry.threshold).mean()) for seen in sets.values()]
            alarms = [100 * float((score(seen) > entry.threshold).mean()) for seen in benign.values()]
            cells = [f"{share:.1f}%" for share in (*flagged, max(alarms), sum(alarms) / len(alarms))]
            rows.append([name, how, *cells])
    judged = f"flagged; n = {len(sets['clean'])} each"
    return markdown([judged, "threshold by", *sets, "worst benign", "mean benign"], rows)


if __name__ == "__main__":
    guarded(main)
