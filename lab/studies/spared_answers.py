"""Measure a rule that spares clean images: purified are only those whose logits purification changes unusually much.

python -m lab.studies.spared_answers [RUN] --data DIR [--limit 2000] [--calibrate 2000] --out FOLDER

RUN is a run folder, or the name of a pair that ships; DIR holds its dataset. The answer is the classifier's own unless
the standard deviation of the logits' change exceeds what 95% of validation images have. Test images judge, as 8-bit
images: clean, changed, attacked in the grey box, and attacked by one who knows the purifier, or the rule too. For
comparison the rule is also tried with suspicion's own score. The attacks on the rule want both answers wrong: the sum
of their cross-entropies large, or the smaller of their margins. Writes spared_answers.json and spared_answers.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from sys import stderr
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.studies.common import guarded, markdown, positive, study_parser, write_results
from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.manifest import Score
from purify_edge.errors import InputError
from purify_edge.pipeline.sparing import RATE
from purify_edge.pipeline.suspicion import calibrate, is_suspicious, suspicion_of
from purify_export.images.golden import attacked, reference
from purify_export.networks import Networks
from purify_toolkit.attacks.gradient import FGSM, PGD, cross_entropy, margin
from purify_toolkit.data.pixels import to_8bit, to_float
from purify_toolkit.data.splits import Split
from purify_toolkit.evaluate.stats import Correct, Counted, mcnemar
from purify_toolkit.networks.answers import Model
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.pretrained import open_run

CHANGE: Score = "logit-change"
OTHER: Score = "confident-change"
GREY, WHITE = "grey-box", "white-box"
RIGHT = ("alone", "purified", "with_rule", "by_suspicion")
HEADER = ["threat", "images", "alone", "purified", "with the rule", "rule by suspicion's score", "share purified"]


@dataclass(frozen=True)
class SparingRule:
    """Keep the classifier's answer to an image as it came, unless purification changes its logits by more."""

    score: Score
    threshold: float

    @classmethod
    def of(cls, clean: GoldenSplit, score: Score = CHANGE) -> "SparingRule":
        """Return the rule that purifies one clean image in 20; raise InputError for too few images to tell."""
        scores = suspicion_of(clean.classifier, clean.defended, score)
        entry = calibrate(scores, rate=RATE, source="validation images")
        if entry is None:
            raise InputError("there are too few images to calibrate on, 19 at least; give more by --calibrate")
        return cls(score, entry.threshold)

    def purifies(self, seen: GoldenSplit) -> Correct:
        """Return of which images `[N]` the answer is that of the purified image."""
        return is_suspicious(suspicion_of(seen.classifier, seen.defended, self.score), self.threshold)

    def right(self, seen: GoldenSplit) -> Correct:
        """Return which images `[N]` get their label."""
        answers = np.where(self.purifies(seen), seen.defended.argmax(1), seen.classifier.argmax(1))
        correct: Correct = answers == seen.labels
        return correct


def both_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum `[N]` of the cross-entropies of two answers, whose logits `[N, 2 K]` stand side by side."""
    first, second = logits.chunk(2, dim=1)
    return cross_entropy(first, labels) + cross_entropy(second, labels)


def less_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the smaller `[N]` of the margins of two answers, see `both_wrong`: above 0 when both are wrong."""
    first, second = logits.chunk(2, dim=1)
    return torch.minimum(margin(first, labels), margin(second, labels))


def attacks_of(pgd: PGD, networks: Networks) -> Iterator[tuple[str, str, Model, PGD]]:
    """Yield each attack: its threat, its name, the model that it follows, and how."""
    alone, epsilon = networks.classifier, pgd.epsilon
    slow = replace(pgd, steps=40, relative_step=1 / 40, until_wrong=True)
    grey = [pgd, replace(pgd, loss=margin), FGSM(epsilon=epsilon)]
    weak = [replace(pgd, epsilon=epsilon * share) for share in (1 / 2, 1 / 4, 1 / 10)]
    sly = [slow, replace(slow, random_start=False), FGSM(epsilon=epsilon / 4)]
    for attack in (*grey, *weak, *sly):
        yield GREY, str(attack), alone, attack
    yield WHITE, f"{pgd}, on purifier and classifier", networks.defended, pgd

    def side_by_side(images: Tensor) -> Tensor:
        return torch.cat([alone(images), networks.defended(images)], dim=1)

    for loss, name in ((both_wrong, "sum of cross-entropies"), (less_wrong, "smaller margin")):
        yield WHITE, f"{pgd}, on the rule, {name}", side_by_side, replace(pgd, loss=loss)


def images_of(test: Split, pgd: PGD, networks: Networks, *, seed: int) -> Iterator[tuple[str, str, Tensor]]:
    """Yield threat, name and 8-bit images of each row of the table."""
    clean = to_float(test.images)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    yield "clean", "as they are", test.images
    size = f"Gaussian noise, standard deviation {pgd.epsilon:g}"
    yield "noise", size, to_8bit((clean + pgd.epsilon * noise).clamp(0, 1))
    yield "light", "half as bright", to_8bit(clean / 2)
    for threat, name, model, attack in attacks_of(pgd, networks):
        yield threat, name, attacked(model, test.images, test.labels, attack, seed=seed)


def judged(seen: GoldenSplit, rule: SparingRule, other: SparingRule) -> dict[str, Correct]:
    """Return by column which images `[N]` are right, and which were purified."""
    return {
        "alone": seen.classifier.argmax(1) == seen.labels,
        "purified": seen.defended.argmax(1) == seen.labels,
        "with_rule": rule.right(seen),
        "by_suspicion": other.right(seen),
        "share_purified": rule.purifies(seen),
    }


def row_of(threat: str, images: str, columns: Mapping[str, Correct]) -> dict[str, Any]:
    """Return the figures of one set of images; p is McNemar's, of the rule against always purifying."""
    figures = {name: Counted(n=len(of), correct=int(of.sum())).as_dict() for name, of in columns.items()}
    return {"threat": threat, "images": images, **figures, "p": mcnemar(columns["with_rule"], columns["purified"])}


def worst(threat: str, sets: Sequence[Mapping[str, Correct]]) -> dict[str, Any]:
    """Return the row of what stays right under each of several attacks, image by image."""
    right = {name: np.logical_and.reduce([columns[name] for columns in sets]) for name in RIGHT}
    return row_of(threat, f"the worst of these {len(sets)} for each image", right)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as Markdown."""
    names = (*RIGHT, "share_purified")
    return markdown(HEADER, [[row["threat"], row["images"], *(_cell(row.get(name)) for name in names)] for row in rows])


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    low, high = figure["ci95"]
    return f"{100 * figure['accuracy']:.1f}% ({100 * low:.1f} to {100 * high:.1f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = study_parser(__doc__)
    parser.add_argument("run", nargs="?")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=positive, default=2000)
    parser.add_argument("--calibrate", type=positive, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    run = open_run(options.run)
    data, networks = load_data_of(run, options.data), Networks.load(run)
    test, validation = data.test[: options.limit], data.validation[: options.calibrate]
    calm = reference(networks, validation.images, validation.labels)
    rule, other = SparingRule.of(calm), SparingRule.of(calm, OTHER)
    options.out.mkdir(parents=True, exist_ok=True)
    rows, attacked = [], dict[str, list[dict[str, Correct]]]()
    for threat, name, images in images_of(test, PGD.of(run.recipe.evaluation), networks, seed=run.info["seed"]):
        columns = judged(reference(networks, images, test.labels), rule, other)
        rows.append(row_of(threat, name, columns))
        attacked.setdefault(threat, []).append(columns)
        print(table(rows[-1:]).splitlines()[-1], file=stderr, flush=True)
    rows += [worst(threat, sets) for threat, sets in attacked.items() if threat in (GREY, WHITE)]
    about = {"run": run.path.name, "n": len(test), "n_calibration": len(validation), "rate": RATE}
    results = {**about, "thresholds": {of.score: of.threshold for of in (rule, other)}, "rows": rows}
    write_results(options.out, "spared_answers", results, table(rows))


if __name__ == "__main__":
    guarded(main)
