"""Measure purifiers on photographs: how often a network of many classes answers as it does on the clean picture.

python -m lab.photographs.agreement RUN [RUN ...] --data DIR --out FOLDER [--limit 1000] [--levels 4 8]
    [--white-box 100]

Each RUN is a run folder of photographs without labels (`purify-train image-folder --unlabelled`). Attacks know the
classifier alone, but for the white-box one, PGD-20 through purifier and classifier on the first so many pictures, each
until the answer is another. They are made in chunks and kept in FOLDER/attacks by classifier, so that the next purifier
in front of it costs little, and a broken-off study goes on. "Sure" are the pictures on which the classifier alone gives
its answer at least 0.3. "Spared" is the answer with `spare_clean`, its threshold set by the validation pictures. Writes
agreement.json and agreement.md, of this command alone.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lab.studies.common import GOES_ON, guarded, markdown, positive, study_parser, write_results
from purify_edge.bundle.manifest import SpareEntry
from purify_edge.errors import InputError
from purify_edge.files import atomic, file_sha256
from purify_edge.pipeline.prediction import answers_of
from purify_edge.pipeline.sparing import calibrate_spare, spare
from purify_toolkit.attacks.gradient import PGD, margin
from purify_toolkit.data.pixels import to_8bit
from purify_toolkit.data.splits import Split, batches
from purify_toolkit.evaluate.stats import Counted
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.folder import RunFolder

CPU = torch.device("cpu")
CHUNK = 100
SURE = 0.3
Correct = NDArray[np.bool_]
WAYS = ("alone", "purified", "spared")


def attacks(level: int) -> dict[str, PGD]:
    """Return the attacks of a size in 255ths, by name."""
    pgd = PGD(epsilon=level / 255, steps=20, relative_step=0.125)
    return {f"PGD-20, {level}/255": pgd, f"margin PGD-20, {level}/255": replace(pgd, loss=margin)}


@dataclass(frozen=True)
class Photographs:
    """A classifier, test pictures with its own answers for labels, and where its attacks are kept."""

    classifier: nn.Module
    test: Split
    folder: Path

    def attacked(self, attack: PGD, model: nn.Module, name: str) -> Split:
        """Return the examples as 8 bits, made now or before; report progress after each chunk."""
        parts = []
        for first in range(0, len(self.test), CHUNK):
            some, path = self.test[first : first + CHUNK], self.folder / f"{self._digest(attack, name, first)}.npy"
            if not path.is_file():
                print(f"{name}: pictures {first} to {first + len(some) - 1}", flush=True)
                self.folder.mkdir(parents=True, exist_ok=True)
                with atomic(path) as temporary, temporary.open("wb") as file:
                    np.save(file, self._make(attack, model, some, first).numpy())
            parts.append(torch.from_numpy(np.load(path)))
        return Split(torch.cat(parts), self.test.labels)

    def _make(self, attack: PGD, model: nn.Module, some: Split, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        made = [attack(model, images, labels, generator=generator) for images, labels in batches(some, CPU)]
        return to_8bit(torch.cat(made), clean=some.images, epsilon=attack.epsilon)

    def _digest(self, attack: PGD, name: str, first: int) -> str:
        chunk = self.test[first : first + CHUNK]
        content = f"{name} {attack} {first} {chunk.labels.tolist()}".encode() + chunk.images.numpy().tobytes()
        return hashlib.sha256(content).hexdigest()[:24]

    def sure(self) -> Correct:
        """Return on which pictures the classifier is sure of its answer, `[N]`."""
        with torch.no_grad():
            found = [self.classifier(images).softmax(1).amax(1) >= SURE for images, _ in batches(self.test, CPU)]
        return torch.cat(found).numpy()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = study_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=positive, default=1000)
    parser.add_argument("--levels", type=positive, nargs="+", default=[4, 8], help="sizes in 255ths; default 4 8")
    parser.add_argument("--white-box", type=positive, default=100)
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.runs:
        run = RunFolder(path)
        if not run.is_unlabelled:
            raise InputError(f"{path} was trained with labels; expected a run of purify-train --unlabelled")
        data = load_data_of(run, options.data, device="cpu")
        test = data.test[: options.limit]
        for row in rows_of(run, test, data.validation, options.out, options.levels, options.white_box):
            rows.append(row)
            write_results(options.out, "agreement", {"rows": rows}, table(rows))
    print(table(rows), end="")


def rows_of(
    run: RunFolder, test: Split, validation: Split, out: Path, levels: Sequence[int], white_box: int
) -> Iterator[dict[str, Any]]:
    """Yield a row for each attack, and for the worst of them at each size: agreement on all pictures, on the sure."""
    classifier, student = run.load_classifier(), run.load_student()
    photographs = Photographs(classifier, test, out / "attacks" / file_sha256(run.weights_path("classifier"))[:16])
    pipeline, sure = nn.Sequential(student, classifier), photographs.sure()
    entry = calibrate_spare(*logits_of(classifier, student, validation), source="validation pictures")
    if entry is None:
        raise InputError(f"{run.path}: {len(validation)} validation pictures set no threshold, 19 or more do")

    def row(name: str, found: Sequence[Correct]) -> dict[str, Any]:
        of: dict[str, Any] = {"all": slice(None), "sure": sure[: len(found[0])]}
        counted = {
            f"{kind}_{what}": Counted(n=len(correct[some]), correct=int(correct[some].sum())).as_dict()
            for kind, some in of.items()
            for what, correct in zip(WAYS, found, strict=True)
        }
        return {"run": run.path.name, "attack": name, **counted}

    def answered(split: Split) -> list[Correct]:
        return answers(classifier, student, split, entry)

    yield row("none", answered(test))
    for level in levels:
        worst = [np.ones(len(test), bool) for _ in WAYS]
        for name, attack in attacks(level).items():
            found = answered(photographs.attacked(attack, classifier, name))
            worst = [before & now for before, now in zip(worst, found, strict=True)]
            yield row(name, found)
        yield row(f"worst case, {level}/255", worst)
    few = Photographs(classifier, test[:white_box], out / "attacks" / file_sha256(run.weights_path("student"))[:16])
    for level in levels:
        name = f"white-box PGD-20, {level}/255"
        attack = replace(attacks(level)[f"PGD-20, {level}/255"], until_wrong=True)
        yield row(name, answered(few.attacked(attack, pipeline, name)))


def answers(classifier: nn.Module, student: nn.Module, split: Split, entry: SpareEntry) -> list[Correct]:
    """Return which pictures get the answer of the clean one, `[N]`, in each of WAYS."""
    alone, purified = logits_of(classifier, student, split)
    labels = split.labels.numpy()
    return [answers_of(logits) == labels for logits in (alone, purified, spare(alone, purified, entry))]


@torch.no_grad()
def logits_of(classifier: nn.Module, student: nn.Module, split: Split) -> tuple[NDArray[np.float32], ...]:
    """Return the logits `[N, K]` of the pictures as they are, and of the purified ones."""
    parts = [(classifier(images).numpy(), classifier(student(images)).numpy()) for images, _ in batches(split, CPU)]
    return tuple(np.concatenate(logits) for logits in zip(*parts, strict=True))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown: percentages, intervals under the purified ones."""

    def share(counted: dict[str, Any]) -> str:
        low, high = (100 * bound for bound in counted["ci95"])
        return f"{100 * counted['accuracy']:.1f} ({low:.1f} to {high:.1f})"

    header = ["run", "attack", "n", *WAYS, "n, sure", *WAYS]
    lines = [
        [
            *(row["run"], row["attack"]),
            *(row["all_alone"]["n"], *(share(row[f"all_{way}"]) for way in WAYS)),
            *(row["sure_alone"]["n"], *(share(row[f"sure_{way}"]) for way in WAYS)),
        ]
        for row in rows
    ]
    return markdown(header, lines)


if __name__ == "__main__":
    guarded(main, when_interrupted=GOES_ON)
