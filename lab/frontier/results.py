"""The results of a study, read from its finished students: figures, pairs of near clean accuracy, a table, a plot."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lab.frontier.arms import ARMS, Keys
from lab.frontier.judged import THREATS
from lab.studies.common import markdown, spread
from purify_edge.errors import InputError
from purify_edge.files import atomic
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.evaluate.stats import Correct, mcnemar
from purify_toolkit.runs.folder import RunFolder

JUDGED = "right.npz"
"""The file of a student that says which test images are classified right under each threat."""
AGAINST = ("none", "led")
"""Arms that the others are compared with."""
NEAR = 0.5
"""Points of clean accuracy up to which two settings are compared."""
Row = dict[str, Any]


def collect(out: Path) -> dict[str, Any]:
    """Return what frontier.json holds: a row a finished student, in the order of `ARMS`; accuracies in percent."""
    rows, runs = [], []
    for path in sorted(out.glob(f"seed-*/w*/*/*/{JUDGED}"), key=_order):
        seed, width, arm, setting = _place(path)
        run, correct = RunFolder(path.parent), _correct(path)
        runs.append(run)
        rows.append(
            {"seed": seed, "width": width, "arm": arm, "setting": setting, "keys": ARMS[arm].settings[setting]}
            | {"parameters": sum(weights.numel() for weights in run.load_student().parameters())}
            | {threat: 100 * float(of.mean()) for threat, of in correct.items()}
        )
    if not rows:
        raise InputError(f"{out} holds no finished student; expected the --out of a study")
    first = runs[0]
    return {
        "dataset": first.info["dataset"],
        "limit": first.info["limit"],
        "commits": sorted({str(run.info["commit"]) for run in runs}),
        "epochs": {"student": first.recipe.student.epochs},
        "n": len(_correct(first.path / JUDGED)["clean"]),
        "attack": str(PGD.of(first.recipe.evaluation)),
        "rows": rows,
        "pairs": list(_pairs(out, rows)),
    }


def _place(path: Path) -> tuple[int, int, str, int]:
    """Return seed, width, arm and setting of a judged student."""
    seed, width, arm, setting = path.parts[-5:-1]
    return int(seed[5:]), int(width[1:]), arm, int(setting)


def _order(path: Path) -> tuple[int, int, int, int]:
    seed, width, arm, setting = _place(path)
    return width, list(ARMS).index(arm), setting, seed


def _correct(path: Path) -> dict[str, Correct]:
    with np.load(path, allow_pickle=False) as arrays:
        return {threat: arrays[threat] for threat in THREATS}


def settings_of(rows: Sequence[Row]) -> dict[tuple[int, str, int], list[Row]]:
    """Return the rows, one a seed, of each width, arm and setting."""
    found: dict[tuple[int, str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["width"], row["arm"], row["setting"]), []).append(row)
    return found


def _mean(rows: Sequence[Row], threat: str) -> float:
    return float(mean(row[threat] for row in rows))


def _pairs(out: Path, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield each setting beside that of `AGAINST` with the nearest clean accuracy, if it is near; with McNemar's p."""
    found = settings_of(rows)
    for (width, arm, setting), of in found.items():
        for other in AGAINST:
            theirs = [(key, some) for key, some in found.items() if key[:2] == (width, other) and len(some) == len(of)]
            if arm == other or not theirs:
                continue
            key, nearest = min(theirs, key=lambda some: abs(_mean(some[1], "clean") - _mean(of, "clean")))
            if abs(_mean(nearest, "clean") - _mean(of, "clean")) > NEAR:
                continue
            points = {threat: [a[threat] - b[threat] for a, b in zip(of, nearest, strict=True)] for threat in THREATS}
            mine, his = (f"w{width}/{name}/{number}" for name, number in ((arm, setting), key[1:]))
            right_of = [
                [_correct(out / f"seed-{row['seed']}" / where / JUDGED)["grey-box"] for where in (mine, his)]
                for row in of
            ]
            p = [mcnemar(*both) for both in right_of]
            about = {"width": width, "arm": arm, "setting": setting, "against": other, "against_setting": key[2]}
            yield {**about, "points": points, "mcnemar_p": p}


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    limit = "" if results["limit"] is None else f", limited to {results['limit']} images of each part"
    about = (
        f"{results['dataset']}{limit}; students of {results['epochs']['student']} epochs; n = {results['n']} test "
        f"images a seed;\n{results['attack']}, examples made on the classifier alone. Accuracy in percent, mean and "
        "standard deviation over the seeds."
    )
    rows = [
        [
            width,
            ARMS[arm].title,
            _told(of[0]["keys"]),
            len(of),
            *(_cell([row[threat] for row in of]) for threat in THREATS),
        ]
        for (width, arm, _), of in settings_of(results["rows"]).items()
    ]
    parts = [about, "", markdown(["width", "imitates", "setting", "seeds", *THREATS], rows)]
    pairs = [
        [
            pair["width"],
            f"{ARMS[pair['arm']].title}, {pair['setting'] + 1}",
            f"{ARMS[pair['against']].title}, {pair['against_setting'] + 1}",
            *(_cell(pair["points"][threat], sign="+") for threat in THREATS),
            f"{max(pair['mcnemar_p']):.2g}",
        ]
        for pair in results["pairs"]
    ]
    if pairs:
        words = (
            f"Points more than another arm's setting of the nearest clean accuracy, at most {NEAR:g} away; p is the "
            "largest of McNemar's over the seeds, on attacked images."
        )
        parts += [words, "", markdown(["width", "arm, setting", "against", *THREATS, "p"], pairs)]
    return "\n".join(parts)


def _told(keys: Keys) -> str:
    """Return what a setting weighs, in short."""
    names = {
        "adversarial_teacher_weight": "share of A",
        "clean_adversarial_teacher_weight": "where clean",
        "adversarial_fraction": "attacked",
        "reconstruction": "reconstruction",
    }
    told = [f"{name} {keys[key]:g}" for key, name in names.items() if key in keys]
    return ", ".join(part for part in told if part != "reconstruction 0")


def _cell(values: Sequence[float], sign: str = "") -> str:
    deviation = spread(values)
    return f"{mean(values):{sign}.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw each arm's settings as a line, clean against grey-box accuracy, a panel a width of the students."""
    found = settings_of(results["rows"])
    widths = sorted({width for width, _, _ in found})
    figure = Figure(figsize=(6 * len(widths), 5), layout="constrained")
    panels = figure.subplots(1, len(widths), squeeze=False)
    for width, panel in zip(widths, panels[0], strict=True):
        for name, arm in ARMS.items():
            of = sorted(
                (_mean(some, "clean"), _mean(some, "grey-box"))
                for key, some in found.items()
                if key[:2] == (width, name)
            )
            if of:
                panel.plot(*zip(*of, strict=True), marker="o", markersize=4, linewidth=1, label=arm.title)
        parameters = next(row["parameters"] for row in results["rows"] if row["width"] == width)
        panel.set(title=f"{parameters / 1000:.0f} thousand parameters", xlabel="clean, %", ylabel="grey-box, %")
        panel.grid(alpha=0.3)
    panels[0][-1].legend(fontsize=7)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
