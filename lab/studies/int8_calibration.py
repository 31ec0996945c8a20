"""Compare INT8 models by the images that they are calibrated on: all clean, half attacked, all attacked.

python -m lab.studies.int8_calibration [RUN] [--calibrate 256] [--judge 488]

RUN is a run folder with its sample images, or the name of a pair that ships. All layers but the first and the last of
each network are in INT8, without the search for sensitive ones, which would hide the effect. The images that judge are
neither of those that calibrate nor of the golden set. Prints a Markdown table; the p value is McNemar's, against half
attacked.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lab.studies.common import guarded, markdown, positive, study_parser
from purify_edge.errors import InputError
from purify_export.convert.amounts import IMAGES
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.image_set import Calibration, ImageSet
from purify_export.convert.int8_search import answer, ends, mixed, quantise_pair
from purify_export.images.golden import attacked
from purify_export.networks import Networks
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.evaluate.stats import mcnemar
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import open_run

Right = NDArray[np.bool_]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = study_parser(__doc__)
    parser.add_argument("run", nargs="?")
    parser.add_argument("--calibrate", type=positive, default=256)
    parser.add_argument("--judge", type=positive, default=488)
    options = parser.parse_args(arguments)
    run = open_run(options.run)
    networks = Networks.load(run)
    clean, adversarial = _images(run, networks, options.calibrate + options.judge)
    channels, height, width = run.info["image_shape"]
    pair = GraphPair.from_torch(networks.purifier, networks.classifier, (channels, height, width))
    count = options.calibrate
    sets = {
        "clean": {"all": clean[:count]},
        "half attacked": {"clean": clean[: count // 2], "adversarial": adversarial[count // 2 : count]},
        "attacked": {"all": adversarial[:count]},
    }
    judges = {"clean": clean[count:], "adversarial": adversarial[count:]}
    right = {"float32": _right(pair, judges)}
    for name, images in sets.items():
        int8 = mixed(quantise_pair(pair, images), pair, ends(pair))
        right[name] = _right(int8, judges)
    print(_table(right, n=options.judge, calibrated=count), end="")


def _images(run: RunFolder, networks: Networks, count: int) -> tuple[ImageSet, ImageSet]:
    samples = run.load_samples()
    left = max(0, len(samples.labels) - IMAGES)
    if left < count:
        raise InputError(
            f"{run.path} has {left} images beside the golden set, {count} are asked for: "
            "fewer by --calibrate and --judge, or a run with more"
        )
    images, labels = samples.images[IMAGES:][:count], samples.labels[IMAGES:][:count]
    attack = attacked(networks.classifier, images, labels, PGD.of(run.recipe.evaluation), seed=run.info["seed"])
    return ImageSet.of(images, labels), ImageSet.of(attack, labels)


def _right(pair: GraphPair, judges: Calibration) -> dict[str, Right]:
    model = pair.defended()
    found = {}
    for split, judge in judges.items():
        found[split] = answer(model, judge.images).argmax(axis=1) == judge.labels
    return found


def _table(right: dict[str, dict[str, Right]], *, n: int, calibrated: int) -> str:
    header = [f"calibrated on {calibrated} images", f"clean, n = {n}", f"adversarial, n = {n}", "p, adversarial"]
    rows = []
    for name, found in right.items():
        shares = [f"{100 * float(found[split].mean()):.2f}%" for split in ("clean", "adversarial")]
        p = mcnemar(found["adversarial"], right["half attacked"]["adversarial"])
        rows.append([name, *shares, f"{p:.2f}"])
    return markdown(header, rows)


if __name__ == "__main__":
    guarded(main)
