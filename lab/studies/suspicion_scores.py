"""Compare scores that may tell attacked images from clean ones.

python -m lab.studies.suspicion_scores [RUN] --data DIR [--judge 512] [--calibrate 5000]

RUN is a run folder, or the name of a pair that ships; DIR holds its dataset. Test images judge, as 8-bit images, clean,
attacked on the classifier alone, and with noise; validation images set each score's threshold for 1% false positives.
White-box is PGD on purifier and classifier; it does not know the score. Prints a Markdown table.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from purify_edge.pipeline.suspicion import auroc, calibrate, suspicion_of
from purify_export.images.golden import noisy
from purify_export.networks import Networks
from purify_toolkit.attacks.gradient import FGSM, PGD
from purify_toolkit.data.pixels import batch_size, to_8bit, to_float
from purify_toolkit.data.splits import Split
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import open_run

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """Pixels of N images before and after purification, and the classifier's logits `[N, K]` of both."""

    image: Array
    purified: Array
    plain: Array
    defended: Array


def softmax(logits: Array) -> Array:
    """Return the probabilities `[N, K]` of logits."""
    found: Array = torch.from_numpy(logits).softmax(1).numpy()
    return found


def divergence(first: Array, second: Array) -> Array:
    """Return Kullback and Leibler's divergence `[N]` between the probabilities of two sets of logits."""
    logs = [torch.from_numpy(logits).log_softmax(1).numpy() for logits in (first, second)]
    found: Array = (softmax(first) * (logs[0] - logs[1])).sum(axis=1)
    return found


def _residual(seen: Seen) -> Array:
    found: Array = np.abs(seen.image - seen.purified).mean(axis=(1, 2, 3))
    return found


SCORES: dict[str, Callable[[Seen], Array]] = {
    "logit change, standard deviation": lambda seen: suspicion_of(seen.plain, seen.defended),
    "KL(before, after)": lambda seen: divergence(seen.plain, seen.defended),
    "KL(after, before)": lambda seen: divergence(seen.defended, seen.plain),
    "total variation": lambda seen: np.abs(softmax(seen.plain) - softmax(seen.defended)).sum(axis=1) / 2,
    "residual, mean of absolute values": _residual,
    "logit change x residual": lambda seen: suspicion_of(seen.plain, seen.defended) * _residual(seen),
}


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--judge", type=int, default=512)
    parser.add_argument("--calibrate", type=int, default=5000)
    options = parser.parse_args()
    run = open_run(options.run)
    data, networks = load_data_of(run, options.data), Networks.load(run)
    test = data.test[: options.judge]
    sets = {name: look(networks, images) for name, images in images_of(run, networks, test)}
    print("\n".join(table(sets, look(networks, data.validation.images[: options.calibrate]))))


def images_of(run: RunFolder, networks: Networks, test: Split) -> Iterator[tuple[str, Tensor]]:
    """Yield 8-bit images, each set with what was done to it; the clean one first."""
    attack = run.recipe.evaluation
    clean, seed = to_float(test.images), run.info["seed"]

    def rounded(images: Tensor, epsilon: float) -> Tensor:
        return to_8bit(images, clean=test.images, epsilon=epsilon)

    def steps(model: Callable[[Tensor], Tensor], epsilon: float) -> Tensor:
        pgd, generator = replace(PGD.of(attack), epsilon=epsilon), torch.Generator().manual_seed(seed)
        batches = zip(clean.split(batch_size(clean)), test.labels.split(batch_size(clean)), strict=True)
        return rounded(torch.cat([pgd(model, *batch, generator=generator) for batch in batches]), epsilon)

    yield "clean", test.images
    for share in (1, 0.5, 0.2):
        epsilon = share * attack.epsilon
        yield f"PGD, {epsilon:g}", steps(networks.classifier, epsilon)
    single = FGSM(epsilon=attack.epsilon)(networks.classifier, clean, test.labels, generator=torch.Generator())
    yield f"FGSM, {attack.epsilon:g}", rounded(single, attack.epsilon)
    yield f"white-box PGD, {attack.epsilon:g}", steps(networks.defended, attack.epsilon)
    yield f"noise, {attack.epsilon:g}", noisy(test.images, epsilon=attack.epsilon, seed=seed)


@torch.no_grad()
def look(networks: Networks, images_u8: Tensor) -> Seen:
    """Return what the networks make of 8-bit images `[N, C, H, W]`."""
    found: list[list[Tensor]] = [[], [], [], []]
    for part in images_u8.split(batch_size(images_u8)):
        image = to_float(part)
        purified = networks.purifier(image)
        for kept, tensor in zip(
            found, (image, purified, networks.classifier(image), networks.classifier(purified)), strict=True
        ):
            kept.append(tensor)
    return Seen(*(torch.cat(parts).numpy() for parts in found))


def table(sets: Mapping[str, Seen], calibration: Seen) -> Iterator[str]:
    """Yield a row for each score: on each set AUROC against the clean one, and the share above the threshold."""
    clean = sets["clean"]
    yield f"| AUROC, flagged; n = {len(clean.image)} each | {' | '.join(sets)} |"
    yield "| --- |" + " --- |" * len(sets)
    for name, score in SCORES.items():
        entry = calibrate(score(calibration), source="validation images")
        if entry is None:
            raise SystemExit("there are too few images to calibrate on, 99 at least")
        cells = []
        for kind, seen in sets.items():
            found = score(seen)
            flagged = f"{100 * float((found > entry.threshold).mean()):.1f}%"
            cells.append(flagged if kind == "clean" else f"{auroc(score(clean), found):.4f}, {flagged}")
        yield f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
