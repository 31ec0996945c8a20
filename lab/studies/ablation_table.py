"""The results of an ablation, read from its finished runs: figures a run, means over the seeds, pairs within a seed."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from lab.studies.common import markdown, spread
from purify_edge.errors import InputError
from purify_edge.files import file_sha256
from purify_edge.stats import wilson
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.evaluate.stats import Correct, mcnemar
from purify_toolkit.runs.folder import RunFolder

ARMS: dict[str, tuple[str, dict[str, float]]] = {
    "plain": ("plain CAE", {"imitation": 0.0}),
    "adversarial-teacher": ("adversarial teacher only", {"adversarial_teacher_weight": 1.0}),
    "normal-teacher": ("normal teacher only", {"adversarial_teacher_weight": 0.0}),
    "both": ("both teachers", {}),
    "no-guidance": ("both, no guidance", {"classifier_guidance": 0.0}),
    "no-reconstruction": ("both, no reconstruction", {"reconstruction": 0.0}),
    "features": ("both, and the classifier's features", {"feature_guidance": 1.0}),
    "structure": ("both, and structural similarity", {"structure": 0.2}),
}
"""By the name of its folder: what an arm is called, and its keys of the recipe's table [distillation]."""

THREATS = ("clean", "grey-box")
"""Under each of them all arms of a seed see the same images."""

JUDGED = "right.npz"
"""The file of a run that says which test images are classified right under each threat."""

ALONE = "teachers"
"""The folder of a seed whose run has no student: in it stands what the classifier alone has right."""


@dataclass(frozen=True)
class ArmResult:
    """A finished run of an arm, or the classifier alone."""

    arm: str
    seed: int
    run: RunFolder

    @cached_property
    def right(self) -> dict[str, Correct]:
        """Return which test images it has right under each threat."""
        path = self.run.path / JUDGED
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {threat: arrays[threat] for threat in THREATS}
        except Exception as error:  # a damaged zip raises almost anything
            raise InputError(f"{path} cannot be read ({error}); remove it and run the study again") from error

    @property
    def n(self) -> int:
        """Return the number of test images."""
        return len(self.right["clean"])

    @property
    def attack(self) -> str:
        """Return the name of the attack that made the grey-box examples."""
        return str(PGD.of(self.run.recipe.evaluation))

    def points(self, threat: str) -> float:
        """Return an accuracy in percent."""
        return 100 * float(self.right[threat].mean())

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        student = {"student_sha256": file_sha256(self.run.weights_path("student"))} if self.run.has("student") else {}
        correct = {threat: int(of.sum()) for threat, of in self.right.items()}
        return (
            {"arm": self.arm, "seed": self.seed, "recipe": self.run.info["recipe"], "commit": self.run.info["commit"]}
            | student
            | {threat: {"correct": k, "n": self.n, "ci95": wilson(k, self.n)} for threat, k in correct.items()}
        )


def finished(out: Path) -> list[ArmResult]:
    """Return the finished runs of a study, of the same images, in the order of `ARMS`, the classifier alone last."""
    seeds = sorted(int(path.name[5:]) for path in out.glob("seed-*") if path.name[5:].isdecimal())
    found = [ArmResult(arm, seed, RunFolder(out / f"seed-{seed}" / arm)) for arm in (*ARMS, ALONE) for seed in seeds]
    found = [result for result in found if (result.run.path / JUDGED).is_file()]
    if not found:
        raise InputError(f"{out} holds no finished run (seed-S/ARM/{JUDGED}); expected the --out of a study")
    data, evaluations = {of.run.info["data_sha256"] for of in found}, {(of.attack, of.n) for of in found}
    for what, different in (("data", data), ("evaluation", evaluations)):
        if len(different) > 1:
            raise InputError(f"the runs in {out} are not of the same {what}; give each study an --out of its own")
    return found


def collect(out: Path) -> dict[str, Any]:
    """Return what ablation.json holds: the figures of the runs, a summary over seeds, "both" against the other arms."""
    results = finished(out)
    by_arm: dict[str, list[ArmResult]] = {}
    for result in results:
        by_arm.setdefault(result.arm, []).append(result)
    first = results[0]
    return {
        "dataset": first.run.info["dataset"],
        "limit": first.run.info["limit"],
        "epochs": {"teacher": first.run.recipe.teacher.epochs, "student": first.run.recipe.student.epochs},
        "batch_size": first.run.recipe.student.batch_size,
        "n": first.n,
        "attack": first.attack,
        "runs": [result.as_dict() for result in results],
        "summary": {arm: _summary(of) for arm, of in by_arm.items()},
        "both_against": {
            arm: [_pair(both, other) for other in of for both in by_arm.get("both", []) if both.seed == other.seed]
            for arm, of in by_arm.items()
            if arm not in ("both", ALONE)
        },
    }


def _summary(results: list[ArmResult]) -> dict[str, Any]:
    """Return the seeds, and the mean and sample standard deviation over them in percent, for each threat."""
    figures = {threat: [result.points(threat) for result in results] for threat in THREATS}
    of_threats = {threat: {"mean": mean(values), "sd": spread(values)} for threat, values in figures.items()}
    return {"seeds": [result.seed for result in results], **of_threats}


def _pair(both: ArmResult, other: ArmResult) -> dict[str, Any]:
    """Return by how many points "both" is better than another arm of its seed, and McNemar's test."""
    return {
        "seed": both.seed,
        "points": {threat: both.points(threat) - other.points(threat) for threat in THREATS},
        "mcnemar_p": {threat: mcnemar(both.right[threat], other.right[threat]) for threat in THREATS},
    }


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    header = ["student trained with", "seeds", *THREATS]
    names = {arm: name for arm, (name, _) in ARMS.items()} | {ALONE: "(no purifier)"}
    rows = [
        [names[arm], len(summary["seeds"]), *(_cell(summary[threat]) for threat in THREATS)]
        for arm, summary in results["summary"].items()
    ]
    limit = "" if results["limit"] is None else f", limited to {results['limit']} images of each part"
    epochs = results["epochs"]
    batches = f", batches of {results['batch_size']}" if "batch_size" in results else ""  # earlier reports have none
    about = (
        f"{results['dataset']}{limit}; teachers {epochs['teacher']} epochs, students {epochs['student']}{batches}; "
        f"n = {results['n']} test images a seed;\n{results['attack']}, examples made on the classifier alone. "
        "Accuracy in percent, mean and standard deviation over the seeds."
    )
    return "\n".join([about, "", markdown(header, rows), *_comparison(results)])


def _cell(figure: dict[str, Any]) -> str:
    return f"{figure['mean']:.2f}" + ("" if figure["sd"] is None else f" ± {figure['sd']:.2f}")


def _comparison(results: dict[str, Any]) -> list[str]:
    """Yield the paragraph and table of the pairs; nothing where there are none."""
    rows = [row for arm, pairs in results["both_against"].items() for row in _pair_rows(ARMS[arm][0], pairs)]
    if not rows:
        return []
    header = ["both teachers against", "seed", "clean", "p", "grey-box", "p"]
    words = "Points by which both teachers are better, seed by seed; p is McNemar's, on the same images for both arms."
    return [words, "", markdown(header, rows)]


def _pair_rows(name: str, pairs: list[dict[str, Any]]) -> list[list[str]]:
    """Yield a row for each seed and, if there are several, one for their mean and standard deviation."""
    rows = []
    for pair in pairs:
        points = {threat: f"{value:+.2f}" for threat, value in pair["points"].items()}
        cells = [cell for threat in THREATS for cell in (points[threat], f"{pair['mcnemar_p'][threat]:.2g}")]
        rows.append([name, str(pair["seed"]), *cells])
    if len(pairs) > 1:
        of = {threat: [pair["points"][threat] for pair in pairs] for threat in THREATS}
        means = {threat: f"{mean(values):+.2f} ± {spread(values):.2f}" for threat, values in of.items()}
        rows.append([name, "mean", *(cell for threat in THREATS for cell in (means[threat], ""))])
    return rows
