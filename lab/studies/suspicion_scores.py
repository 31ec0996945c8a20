"""Compare scores that may tell attacked images from clean ones.

python -m lab.studies.suspicion_scores [RUN] --data DIR [--judge 512] [--calibrate 5000]

RUN is a run folder, or the name of a pair that ships; DIR holds its dataset. Test images judge, as 8-bit images, clean,
attacked on the classifier alone, and with noise; validation images set each score's threshold for 1% false positives.
White-box is PGD on purifier and classifier; it does not know the score. Prints a Markdown table.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lab.studies.common import guarded, markdown, positive, study_parser
from purify_edge.bundle.golden import GoldenSplit
from purify_edge.errors import InputError
from purify_edge.pipeline.suspicion import auroc, calibrate, suspicion_of
from purify_export.convert.convert import as_floats
from purify_export.images.golden import attacked, noisy, reference
from purify_export.networks import Networks
from purify_toolkit.attacks.gradient import FGSM
from purify_toolkit.data.pixels import to_8bit, to_float
from purify_toolkit.data.splits import Split
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


def _residual(seen: GoldenSplit) -> Array:
    found: Array = np.abs(as_floats(seen.images) - seen.purified).mean(axis=(1, 2, 3))
    return found


SCORES: dict[str, Callable[[GoldenSplit], Array]] = {
    "logit change, standard deviation": lambda seen: suspicion_of(seen.classifier, seen.defended),
    "KL(before, after)": lambda seen: divergence(seen.classifier, seen.defended),
    "KL(after, before)": lambda seen: divergence(seen.defended, seen.classifier),
    "total variation": lambda seen: np.abs(softmax(seen.classifier) - softmax(seen.defended)).sum(axis=1) / 2,
    "residual, mean of absolute values": _residual,
    "logit change x residual": lambda seen: suspicion_of(seen.classifier, seen.defended) * _residual(seen),
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
    print(table(sets, reference(networks, validation.images, validation.labels)), end="")


def images_of(run: RunFolder, networks: Networks, test: Split) -> Iterator[tuple[str, Tensor]]:
    """Yield 8-bit images, each set with what was done to it; the clean one first."""
    attack, seed = run.recipe.evaluation, run.info["seed"]

    def steps(model: nn.Module, epsilon: float) -> Tensor:
        settings = msgspec.structs.replace(attack, epsilon=epsilon)
        return attacked(model, test.images, test.labels, settings, seed=seed)

    yield "clean", test.images
    for share in (1, 0.5, 0.2):
        epsilon = share * attack.epsilon
        yield f"PGD, {epsilon:g}", steps(networks.classifier, epsilon)
    fgsm, clean = FGSM(epsilon=attack.epsilon), to_float(test.images)
    single = fgsm(networks.classifier, clean, test.labels, generator=torch.Generator())
    yield f"FGSM, {attack.epsilon:g}", to_8bit(single, clean=test.images, epsilon=attack.epsilon)
    yield f"white-box PGD, {attack.epsilon:g}", steps(networks.defended, attack.epsilon)
    yield f"noise, {attack.epsilon:g}", noisy(test.images, epsilon=attack.epsilon, seed=seed)


def table(sets: Mapping[str, GoldenSplit], calibration: GoldenSplit) -> str:
    """Return a row for each score: on each set AUROC against the clean one, and the share above the threshold."""
    rows = []
    for name, score in SCORES.items():
        entry = calibrate(score(calibration), source="validation images")
        if entry is None:
            raise InputError("there are too few images to calibrate on, 99 at least; give more by --calibrate")
        found = {kind: score(seen) for kind, seen in sets.items()}
        flagged = {kind: f"{100 * float((of > entry.threshold).mean()):.1f}%" for kind, of in found.items()}
        areas = {kind: f"{auroc(found['clean'], of):.4f}, " for kind, of in found.items() if kind != "clean"}
        rows.append([name, *(areas.get(kind, "") + flagged[kind] for kind in sets)])
    return markdown([f"AUROC, flagged; n = {len(sets['clean'])} each", *sets], rows)


if __name__ == "__main__":
    guarded(main)
