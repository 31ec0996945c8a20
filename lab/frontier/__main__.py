"""Measure what each teacher is worth to a student that never sees the classifier: clean against grey-box accuracy.

python -m lab.frontier RECIPE --base PAIR --data DIR --out FOLDER [--seeds 0,1,2] [--widths 8] [--limit N]

No term of a student's loss asks the classifier (`classifier_guidance` is 0), but in the arms `guided` and `features`,
which show what that is worth: what a student knows of attacks comes from its examples and its teachers. An arm says
which teachers it imitates, and how; each of its settings weighs the same ingredients otherwise, for a single one hides
that clean accuracy can be paid with grey-box accuracy. All students of a seed see the same examples, made once against
the classifier alone, and are judged on the same test images, clean and attacked. Everything is under FOLDER:
seed-S/teachers/NAME, seed-S/wWIDTH/ARM/SETTING, frontier.json, frontier.md.
An interrupted study goes on with the same command.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from lab.frontier.arms import ALONE, ARMS, TEACHERS, Arm, Keys
from lab.frontier.judged import judged, shown
from lab.frontier.results import JUDGED, collect, plot, table
from lab.studies.common import (
    GOES_ON,
    begin,
    changed,
    guarded,
    numbers,
    positive,
    study_parser,
    train_stage,
    write_results,
)
from purify_edge.errors import InputError
from purify_edge.files import atomic
from purify_edge.shell.stages import RichProgress, StageProgress
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.splits import ImageData, Split
from purify_toolkit.device.choice import choose_device
from purify_toolkit.recipe import Recipe, find_recipe, parse_recipe, read_recipe
from purify_toolkit.runs.data import load_data
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import open_run
from purify_toolkit.train.request import Request

ONCE = 1000  # epochs after which an example would be attacked anew: never


@dataclass(frozen=True)
class Frontier:
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
    def seen(self) -> Mapping[str, Split]:
        """Return the test images under each threat, the same for all students."""
        attack = PGD.of(self.recipe.evaluation)
        return shown(self.data.test, self.classifier, attack, self.out / "attacked.npy", self.device)

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
            "distillation": {"classifier_guidance": 0.0, **keys},
            "student": {"width": width, "epochs": self.epochs["student"]},
            "normal_teacher": msgspec.to_builtins(normal),
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
            arrays: dict[str, Any] = judged(pipeline, self.seen, self.device)
            with atomic(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)


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


def _study(options: argparse.Namespace) -> Frontier:
    path = find_recipe(options.recipe)
    recipe = parse_recipe(read_recipe(path), source=str(path))
    epochs = {"teacher": options.epochs_teacher, "student": options.epochs_student}
    return Frontier(
        path.stem,
        recipe,
        open_run(options.base),
        options.data,
        options.out,
        options.limit,
        epochs,
        choose_device(options.device),
    )


if __name__ == "__main__":
    guarded(main, when_interrupted=GOES_ON)
