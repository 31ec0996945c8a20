"""The results of an ablation, read from its finished runs: figures a run, means over the seeds, pairs within a seed."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from purify_toolkit.errors import InputError
from purify_toolkit.evaluation.stats import Correct, mcnemar, wilson
from purify_toolkit.run_folder import RunFolder, file_sha256
from studies.common import markdown, spread

ARMS: dict[str, tuple[str, dict[str, float]]] = {
    "plain": ("plain CAE", {"imitation": 0.0}),
    "adversarial-teacher": ("adversarial teacher only", {"adversarial_teacher_weight": 1.0}),
    "normal-teacher": ("normal teacher only", {"adversarial_teacher_weight": 0.0}),
    "both": ("both teachers", {}),
    "no-guidance": ("both, no guidance", {"classifier_guidance": 0.0}),
    "no-reconstruction": ("both, no reconstruction", {"reconstruction": 0.0}),
}
"""By the name of its folder: what an arm is called, and its keys of the recipe's table [distillation]."""

THREATS = ("clean", "grey-box", "white-box")
PAIRED = ("clean", "grey-box")
"""Threats under which all arms of a seed see the same images."""


@dataclass(frozen=True)
class Result:
    """A finished run of an arm."""

    arm: str
    seed: int
    run: RunFolder

    @cached_property
    def rows(self) -> dict[tuple[str, bool], dict[str, Any]]:
        """The rows of its metrics.json by threat and whether the purifier is there."""
        rows = self.run.provenance()["metrics"]["rows"]
        return {(row["threat"], row["defended"]): row for row in rows}

    @cached_property
    def right(self) -> dict[str, Correct] | None:
        """Which test images it has right under each threat of `PAIRED`; None before it was compared."""
        path = self.run.path / "paired.npz"
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {threat: arrays[threat] for threat in PAIRED}
        except Exception as error:  # a damaged zip raises almost anything
            raise InputError(f"{path} cannot be read ({error}); remove it and run the study again") from error

    def points(self, threat: str, *, defended: bool = True) -> float:
        """An accuracy in percent."""
        row = self.rows[threat, defended]
        return 100 * float(row["correct"]) / float(row["n"])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "arm": self.arm,
            "seed": self.seed,
            "recipe": self.run.info["recipe"],
            "student_sha256": file_sha256(self.run.weights_path("student")),
            "rows": [row | {"ci95": wilson(row["correct"], row["n"])} for row in self.rows.values()],
        }


def finished(out: Path) -> list[Result]:
    """The finished runs of a study, arm by arm as `ARMS` has them.

    Raises:
        InputError: there are none, or not all are of one recipe and the same images.
    """
    seeds = sorted(int(path.name[5:]) for path in out.glob("seed-*") if path.name[5:].isdecimal())
    found = [Result(arm, seed, RunFolder(out / f"seed-{seed}" / arm)) for arm in ARMS for seed in seeds]
    found = [result for result in found if (result.run.path / "metrics.json").is_file()]
    if not found:
        raise InputError(f"{out} holds no finished run (seed-S/ARM/metrics.json); expected the --out of a study")
    for what, of in (("data", _data), ("evaluation", _evaluation)):
        if len({of(result) for result in found}) > 1:
            raise InputError(f"the runs in {out} are not of the same {what}; give each study an --out of its own")
    return found


def _data(result: Result) -> str:
    return str(result.run.info["data_sha256"])


def _evaluation(result: Result) -> str:
    return str([(row["attack"], row["n"]) for row in result.rows.values()])


def collect(out: Path) -> dict[str, Any]:
    """What ablation.json holds: each run's figures, a summary over the seeds, "both" against every other arm."""
    results = finished(out)
    by_arm: dict[str, list[Result]] = {}
    for result in results:
        by_arm.setdefault(result.arm, []).append(result)
    first = results[0]
    return {
        "dataset": first.run.info["dataset"],
        "limit": first.run.info["limit"],
        "n": first.rows["clean", True]["n"],
        "attack": first.rows["grey-box", True]["attack"],
        "runs": [result.as_dict() for result in results],
        "without_purifier": _undefended(results),
        "summary": {arm: _summary(of, THREATS) for arm, of in by_arm.items()},
        "both_against": {
            arm: [_pair(both, other) for other in of for both in by_arm.get("both", []) if both.seed == other.seed]
            for arm, of in by_arm.items()
            if arm != "both"
        },
    }


def _summary(results: list[Result], threats: tuple[str, ...], *, defended: bool = True) -> dict[str, Any]:
    """The seeds, and mean and sample standard deviation over them, in percent, for each threat."""
    figures = {threat: [result.points(threat, defended=defended) for result in results] for threat in threats}
    of_threats = {threat: {"mean": mean(values), "sd": spread(values)} for threat, values in figures.items()}
    return {"seeds": [result.seed for result in results], **of_threats}


def _undefended(results: list[Result]) -> dict[str, Any]:
    """Likewise for the classifier alone, which each seed attacks from other random starts."""
    one_each = list({result.seed: result for result in results}.values())
    return _summary(one_each, PAIRED, defended=False)


def _pair(both: Result, other: Result) -> dict[str, Any]:
    """Points by which "both" is better than another arm of its seed, and McNemar's test where it can be made."""
    tests = {}
    if both.right is not None and other.right is not None:
        tests = {threat: mcnemar(both.right[threat], other.right[threat]) for threat in PAIRED}
    return {
        "seed": both.seed,
        "points": {threat: both.points(threat) - other.points(threat) for threat in THREATS},
        "mcnemar_p": tests,
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    header = ["student trained with", "seeds", "clean", "grey-box", "white-box"]
    rows = [["no purifier", *_cells(results["without_purifier"])]]
    rows += [[ARMS[arm][0], *_cells(summary)] for arm, summary in results["summary"].items()]
    limit = "" if results["limit"] is None else f", limited to {results['limit']} images of each part"
    return "\n".join(
        [
            f"{results['dataset']}{limit}, n = {results['n']} test images a seed, {results['attack']}.",
            "Accuracy in percent, mean and standard deviation over the seeds; grey-box examples are made on the",
            "classifier alone, white-box ones through purifier and classifier.",
            "",
            markdown(header, rows),
            *_comparison(results),
        ]
    )


def _cells(summary: dict[str, Any]) -> list[str]:
    return [str(len(summary["seeds"])), *(_cell(summary.get(threat)) for threat in THREATS)]


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ""
    return f"{figure['mean']:.2f}" + ("" if figure["sd"] is None else f" ± {figure['sd']:.2f}")


def _comparison(results: dict[str, Any]) -> list[str]:
    """The paragraph and table of the pairs; nothing where there are none."""
    rows = [row for arm, pairs in results["both_against"].items() for row in _pair_rows(ARMS[arm][0], pairs)]
    if not rows:
        return []
    header = ["both teachers against", "seed", "clean", "p", "grey-box", "p", "white-box"]
    words = "Points by which both teachers are better, seed by seed; p is McNemar's, on the same images for both arms."
    return [words, "", markdown(header, rows)]


def _pair_rows(name: str, pairs: list[dict[str, Any]]) -> list[list[str]]:
    """A row a seed, and where there are several, their mean and standard deviation."""
    rows = []
    for pair in pairs:
        points = {threat: f"{value:+.2f}" for threat, value in pair["points"].items()}
        p = {threat: f"{value:.2g}" for threat, value in pair["mcnemar_p"].items()}
        cells = [points["clean"], p.get("clean", ""), points["grey-box"], p.get("grey-box", ""), points["white-box"]]
        rows.append([name, str(pair["seed"]), *cells])
    if len(pairs) > 1:
        of = {threat: [pair["points"][threat] for pair in pairs] for threat in THREATS}
        means = {threat: f"{mean(values):+.2f} ± {spread(values):.2f}" for threat, values in of.items()}
        rows.append([name, "mean", means["clean"], "", means["grey-box"], "", means["white-box"]])
    return rows
