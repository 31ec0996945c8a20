"""Measure what each teacher is worth to a student that never sees the classifier: clean against grey-box accuracy.

python -m lab.studies.frontier RECIPE --base PAIR --data DIR --out FOLDER [--seeds 0,1,2] [--widths 8] [--limit N]

No term of a student's loss asks the classifier (`classifier_guidance` is 0): what it knows of attacks comes from its
examples and its teachers. An arm says which teachers it imitates, and how; each of its settings weighs the same
ingredients otherwise, for a single one hides that clean accuracy can be paid with grey-box accuracy. All students of a
seed see the same examples, made once against the classifier alone, and are judged on the same test images, clean and
attacked. Everything is under FOLDER: seed-S/teachers/NAME, seed-S/wWIDTH/ARM/SETTING, frontier.json, frontier.md.
An interrupted study goes on with the same command.
"""

import argparse
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import msgspec
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from lab.studies.common import (
    GOES_ON,
    begin,
    changed,
    guarded,
    markdown,
    numbers,
    positive,
    spread,
    study_parser,
    train_stage,
    write_results,
)
from purify_edge.errors import InputError
from purify_edge.files import atomic
from purify_edge.shell.stages import RichProgress, StageProgress
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.pixels import to_8bit
from purify_toolkit.data.splits import ImageData, Split, batches
from purify_toolkit.device.choice import choose_device
from purify_toolkit.evaluate.stats import Correct, mcnemar
from purify_toolkit.networks.answers import right
from purify_toolkit.recipe import Recipe, find_recipe, parse_recipe, read_recipe
from purify_toolkit.runs.data import load_data
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import open_run
from purify_toolkit.train.request import Request

THREATS = ("clean", "grey-box")
JUDGED = "right.npz"
ONCE = 1000  # epochs after which an example would be attacked anew: never

AGAINST = ("none", "led")
"""Arms that the others are compared with."""
NEAR = 0.5
"""Points of clean accuracy up to which two settings are compared."""
Keys = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """What a student imitates: `settings` are keys of [distillation]; teachers are named as in `TEACHERS`."""

    title: str
    settings: tuple[Keys, ...]
    adversarial: str | None = None
    normal: str | None = None


TEACHERS: dict[str, tuple[str, float, Keys]] = {
    "led": ("adversarial_teacher", 1.0, {}),
    "unled": ("adversarial_teacher", 0.0, {}),
    "skips": ("normal_teacher", 0.0, {}),
    "bottleneck": ("normal_teacher", 0.0, {"bottleneck": 2}),
    "wide-bottleneck": ("normal_teacher", 0.0, {"bottleneck": 8}),
}
"""By name: which teacher it is, whether it is led by the classifier's answers, and what its network differs in."""

ALONE = {"imitation": 1.0, "reconstruction": 0.0}
ORIGINAL = {**ALONE, "second_teacher": "original"}


def _mixed(base: Keys, *shares: float) -> tuple[Keys, ...]:
    return tuple({**base, "adversarial_teacher_weight": share} for share in shares)


def _split(base: Keys, *shares: float) -> tuple[Keys, ...]:
    """Attacked images are shown the adversarial teacher alone, the others a share of it."""
    one = {**base, "adversarial_teacher_weight": 1.0}
    return tuple({**one, "clean_adversarial_teacher_weight": share} for share in shares)


ARMS = {
    "none": Arm(
        "none: the original",
        tuple({"imitation": 0.0, "reconstruction": 1.0, "adversarial_fraction": of} for of in (0.6, 0.8, 0.95, 1.0)),
    ),
    "skips": Arm(
        "normal",
        tuple({**ALONE, "adversarial_teacher_weight": 0.0, "adversarial_fraction": of} for of in (0.6, 1.0)),
        normal="skips",
    ),
    "bottleneck": Arm(
        "normal, bottleneck",
        tuple({**ALONE, "reconstruction": of, "adversarial_teacher_weight": 0.0} for of in (0.0, 0.3, 0.6, 0.9)),
        normal="bottleneck",
    ),
    "led": Arm("adversarial, with the original", _mixed(ORIGINAL, 1.0, 0.85, 0.7, 0.55), adversarial="led"),
    "unled": Arm(
        "adversarial, not led, with the original", _mixed(ORIGINAL, 1.0, 0.85, 0.7, 0.55), adversarial="unled"
    ),
    "split-original": Arm(
        "adversarial where attacked, the original where not", _split(ORIGINAL, 0.75, 0.5, 0.25, 0.0), adversarial="led"
    ),
    "mean-skips": Arm("mean of both", _mixed(ALONE, 0.85, 0.7, 0.55), adversarial="led", normal="skips"),
    "split-skips": Arm("both, split", _split(ALONE, 0.75, 0.5, 0.25, 0.0), adversarial="led", normal="skips"),
    "mean-bottleneck": Arm(
        "mean of both, bottleneck", _mixed(ALONE, 0.85, 0.7, 0.55, 0.3), adversarial="led", normal="bottleneck"
    ),
    "split-bottleneck": Arm(
        "both, split, bottleneck", _split(ALONE, 0.75, 0.5, 0.25, 0.0), adversarial="led", normal="bottleneck"
    ),
    "split-wide-bottleneck": Arm(
        "both, split, bottleneck of 8", _split(ALONE, 0.75, 0.5, 0.25, 0.0), adversarial="led", normal="wide-bottleneck"
    ),
}
"""By the name of its folder. A setting's folder is its number."""


@dataclass(frozen=True)
class Study:
    """A study: what it trains, and where."""

    name: str
    recipe: Recipe
    base: RunFolder
    data_folder: Path | None
    out: Path
    limit: int | None
    epochs: Mapping[str, int]
    device: torch.device

    @cached_property
    def data(self) -> ImageData:
        """Return the recipe's dataset, limited."""
        data = load_data(self.recipe, self.data_folder)
        return data if self.limit is None else data.limited(self.limit)

    @cached_property
    def classifier(self) -> nn.Module:
        """Return the classifier that all attacks know and all students are judged by."""
        return self.base.load_classifier().to(self.device)

    @cached_property
    def attacked(self) -> Split:
        """Return the attacked test images, 8 bits: the same for all, made once."""
        path, test = self.out / "attacked.npy", self.data.test
        if not path.is_file():
            attack, generator = PGD.of(self.recipe.evaluation), torch.Generator(self.device).manual_seed(0)
            made = [attack(self.classifier, *batch, generator=generator).cpu() for batch in batches(test, self.device)]
            examples = to_8bit(torch.cat(made), clean=test.images, epsilon=attack.epsilon)
            self.out.mkdir(parents=True, exist_ok=True)
            with atomic(path) as temporary, temporary.open("wb") as file:
                np.save(file, examples.numpy())
        return Split(torch.from_numpy(np.load(path)), test.labels)

    def begin(self, folder: str, seed: int, changes: Mapping[str, Keys]) -> RunFolder:
        """Return a run folder with the classifier, to train in or to go on with."""
        always = {"attack": {"refresh_epochs": ONCE}}
        request = Request(
            recipe_name=f"{self.name}-frontier",
            recipe_text=changed(self.recipe, {**always, **changes}),
            out=self.out / f"seed-{seed}" / folder,
            data=self.data_folder,
            seed=seed,
            limit=self.limit,
            resume=True,
            base=self.base,
        )
        run = begin(request, self.data)
        if not run.has("classifier"):
            run.save_weights("classifier", self.classifier)
        return run

    def teacher(self, name: str, seed: int, progress: StageProgress) -> RunFolder:
        """Return the run of a teacher, trained now or before; the first that sees attacks makes the seed's examples."""
        of, guidance, network = TEACHERS[name]
        weights = {**ALONE, "adversarial_teacher_weight": float(of == "adversarial_teacher")}
        changes = {
            "distillation": {**weights, "classifier_guidance": guidance},
            "teacher": {"epochs": self.epochs["teacher"], **network},
        }
        run = self.begin(f"teachers/{name}", seed, changes)
        if not run.has(of):
            self._share_examples(run, seed)
            self._train(of, run, seed, progress)
        return run

    def student(self, arm: Arm, keys: Keys, folder: str, width: int, seed: int, progress: StageProgress) -> RunFolder:
        """Return the run of a student, trained now or before."""
        teachers = [self.teacher(name, seed, progress) for name in (arm.adversarial, arm.normal) if name]
        normal = teachers[-1].recipe.teacher if arm.normal else self.recipe.teacher
        changes = {
            "distillation": {**keys, "classifier_guidance": 0.0},
            "student": {"width": width, "epochs": self.epochs["student"]},
            "normal_teacher": {**msgspec.to_builtins(normal)},
        }
        run = self.begin(folder, seed, changes)
        if not run.has("student"):
            for name, teacher in zip(filter(None, (arm.adversarial, arm.normal)), teachers, strict=True):
                of = TEACHERS[name][0]
                run.save_weights(of, teacher.load_teacher(of))
            self._share_examples(run, seed)
            self._train("student", run, seed, progress)
            shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
        return run

    def _share_examples(self, run: RunFolder, seed: int) -> None:
        """Give a run the examples that the seed's first adversarial teacher ended with, where that one is trained."""
        led = RunFolder(self.out / f"seed-{seed}" / "teachers" / "led")
        examples = led.load_examples() if run.path != led.path else None
        if examples is not None and not run.checkpoint_path("examples").is_file():
            run.save_examples(examples)

    def _train(self, name: str, run: RunFolder, seed: int, progress: StageProgress) -> None:
        train_stage(name, run, self.data, seed=seed, device=self.device, progress=progress, validate=False)

    def judge(self, run: RunFolder) -> None:
        """Write into a run which test images are classified right, clean and attacked, unless it is there."""
        path = run.path / JUDGED
        if not path.is_file():
            pipeline = nn.Sequential(run.load_student().to(self.device), self.classifier)
            seen = {"clean": self.data.test, "grey-box": self.attacked}
            arrays: dict[str, Any] = {name: _right(pipeline, split, self.device) for name, split in seen.items()}
            with atomic(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)


def _right(model: nn.Module, split: Split, device: torch.device) -> Correct:
    return np.concatenate([right(model, images, labels) for images, labels in batches(split, device)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, write the results and print the table."""
    options = _parser().parse_args(arguments)
    study = _study(options)
    names = [name for name in options.arms.split(",") if name]
    for name in names:
        if name not in ARMS:
            raise InputError(f"no arm {name!r}; expected of {', '.join(ARMS)}, with commas between")
    with RichProgress() as progress:
        for seed in options.seeds:
            study.teacher("led", seed, progress)  # first: it makes the examples
            for width in options.widths:
                for name in names:
                    for number, keys in enumerate(ARMS[name].settings):
                        folder = f"w{width}/{name}/{number}"
                        study.judge(study.student(ARMS[name], keys, folder, width, seed, progress))
    results = collect(options.out)
    plot(results, options.out / "frontier.png")
    write_results(options.out, "frontier", results, table(results))
    print(table(results), end="")


def _parser() -> argparse.ArgumentParser:
    parser = study_parser(__doc__)
    parser.add_argument("recipe", help="a shipped recipe's name or a .toml file")
    parser.add_argument("--base", required=True, help="a run with the classifier, or a pair's name")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument("--data", type=Path, help="folder that holds the dataset")
    parser.add_argument("--seeds", type=numbers, default="0,1,2", help="default 0,1,2")
    parser.add_argument("--widths", type=numbers, default="8", help="of the students; default 8")
    parser.add_argument("--arms", default=",".join(ARMS), help="default all")
    parser.add_argument("--limit", type=positive, help="use only so many images of each part")
    parser.add_argument("--epochs-teacher", type=positive, default=8, help="default 8")
    parser.add_argument("--epochs-student", type=positive, default=8, help="default 8")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser


def _study(options: argparse.Namespace) -> Study:
    path = find_recipe(options.recipe)
    recipe = parse_recipe(read_recipe(path), source=str(path))
    epochs = {"teacher": options.epochs_teacher, "student": options.epochs_student}
    return Study(
        path.stem,
        recipe,
        open_run(options.base),
        options.data,
        options.out,
        options.limit,
        epochs,
        choose_device(options.device),
    )


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


if __name__ == "__main__":
    guarded(main, when_interrupted=GOES_ON)
