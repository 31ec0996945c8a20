"""Measure what each teacher contributes, over several seeds.

python -m lab.studies.ablation RECIPE --data DIR --seeds 0,1,2 --base RUN --out DIR
python -m lab.studies.ablation --table DIR

An arm is the recipe with a few keys replaced. The arms of a seed share the base's classifier, that seed's teachers and
the adversarial examples with which the students begin; the order of the images and the students' first weights are
the same as well. Only an arm that trains its teachers otherwise trains them anew. All arms of a seed are judged on the
same test images, clean and attacked once against the classifier alone. An interrupted study goes on with the same
command. Everything is under the folder of --out: seed-S/teachers, seed-S/ARM, ablation.json, ablation.md.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lab.studies.ablation_table import ALONE, ARMS, JUDGED, THREATS, collect, table
from lab.studies.common import (
    GOES_ON,
    Changes,
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
from purify_toolkit.data.splits import ImageData, Split, batches
from purify_toolkit.device.choice import choose_device
from purify_toolkit.evaluate.stats import Correct
from purify_toolkit.networks.answers import right
from purify_toolkit.recipe import Recipe, find_recipe, parse_recipe, read_recipe
from purify_toolkit.runs.data import load_data
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import open_run
from purify_toolkit.train.request import Request, take_over

DEFAULT_ARMS = "plain,adversarial-teacher,normal-teacher,both"


@dataclass(frozen=True)
class Study:
    """A study: what it trains, and where."""

    name: str
    recipe: Recipe
    changes: Changes
    base: RunFolder
    data_folder: Path | None
    out: Path
    limit: int | None
    device: torch.device

    @cached_property
    def data(self) -> ImageData:
        """Return the recipe's dataset, limited."""
        data = load_data(self.recipe, self.data_folder)
        return data if self.limit is None else data.limited(self.limit)

    def request(self, folder: str, seed: int, keys: dict[str, float], base: RunFolder) -> Request:
        """Return a training by the recipe with some keys of [distillation] replaced."""
        return Request(
            recipe_name=f"{self.name}-{folder}",
            recipe_text=changed(self.recipe, {**self.changes, "distillation": keys}),
            out=self.out / f"seed-{seed}" / folder,
            data=self.data_folder,
            seed=seed,
            limit=self.limit,
            resume=True,
            base=base,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, write the results and print the table."""
    options = _parser().parse_args(arguments)
    if options.table is None:
        arms, study = arms_named(options.arms), _study(options)
        with RichProgress() as progress:
            for seed in options.seeds:
                run_seed(study, seed, arms, progress)
    results = collect(options.table or options.out)
    if options.table is None:
        write_results(options.out, "ablation", results, table(results))
    print(table(results), end="")


def _parser() -> argparse.ArgumentParser:
    parser = study_parser(__doc__)
    parser.add_argument("recipe", nargs="?", help="a shipped recipe's name or a .toml file; with two teachers")
    parser.add_argument("--base", help="a run with the classifier, of the recipe's [classifier]; or a pair's name")
    parser.add_argument("--out", type=Path, help="folder of the study")
    parser.add_argument("--data", type=Path, help="folder that holds the dataset")
    parser.add_argument("--seeds", type=numbers, default="0,1,2", help="default 0,1,2")
    parser.add_argument("--arms", default=DEFAULT_ARMS, help=f"of {', '.join(ARMS)}; default {DEFAULT_ARMS}")
    parser.add_argument("--limit", type=positive, help="use only so many images of each part")
    parser.add_argument("--epochs-teacher", type=positive, help="instead of the recipe's")
    parser.add_argument("--epochs-student", type=positive, help="instead of the recipe's")
    parser.add_argument("--batch-size", type=positive, help="of teachers and students, instead of the recipe's")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--table", type=Path, metavar="DIR", help="only print the table of a study's finished runs")
    return parser


def arms_named(text: str) -> tuple[str, ...]:
    """Return the arms of a list with commas between; raise InputError for one that is not known."""
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in ARMS:
            raise InputError(f"no arm {name!r}; expected of {', '.join(ARMS)}, with commas between")
    return names


def _study(options: argparse.Namespace) -> Study:
    if not (options.recipe and options.base and options.out):
        raise InputError("RECIPE, --base and --out are needed, or --table DIR alone; see --help")
    path, base = find_recipe(options.recipe), open_run(options.base)
    recipe = parse_recipe(read_recipe(path), source=str(path))
    if len(recipe.teachers) < 2:
        raise InputError(
            f"{path} has no two teachers; expected imitation above 0 and adversarial_teacher_weight between 0 and 1"
        )
    asked = {"teacher": options.epochs_teacher, "student": options.epochs_student}
    changes = {
        name: {key: value for key, value in (("epochs", epochs), ("batch_size", options.batch_size)) if value}
        for name, epochs in asked.items()
    }
    return Study(
        path.stem, recipe, changes, base, options.data, options.out, options.limit, choose_device(options.device)
    )


def run_seed(study: Study, seed: int, arms: Sequence[str], progress: StageProgress) -> None:
    """Train the teachers and each arm's student, and judge those that are not judged yet, image by image."""
    teachers = train_teachers(study, seed, progress)
    runs = {arm: train_arm(study, arm, seed, teachers, progress) for arm in arms} | {ALONE: teachers}
    missing = {arm: run for arm, run in runs.items() if not (run.path / JUDGED).is_file()}
    if missing:
        judge(missing, study.data.test, seed=seed, device=study.device, progress=progress)


def train_arm(study: Study, arm: str, seed: int, teachers: RunFolder, progress: StageProgress) -> RunFolder:
    """Train an arm's student, and the teachers that no other arm trains in the same way."""
    run = begin(study.request(arm, seed, ARMS[arm][1], teachers), study.data)
    take_over(run, teachers)
    examples = teachers.load_examples()
    if examples is not None and not (run.has("student") or run.checkpoint_path("examples").is_file()):
        run.save_examples(examples)
    for name in run.stages:
        _train_stage(name, run, study, seed, progress)
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return run


def train_teachers(study: Study, seed: int, progress: StageProgress) -> RunFolder:
    """Train both teachers without a student; the run keeps its last adversarial examples."""
    run = begin(study.request(ALONE, seed, {}, study.base), study.data)
    if not run.has("classifier"):
        run.save_weights("classifier", study.base.load_classifier())
    for name in run.recipe.teachers:
        _train_stage(name, run, study, seed, progress)
    return run


def _train_stage(name: str, run: RunFolder, study: Study, seed: int, progress: StageProgress) -> None:
    """Train one network without validation, whose attack takes longer than the training if the images are few."""
    train_stage(name, run, study.data, seed=seed, device=study.device, progress=progress, validate=False)


def judge(
    runs: Mapping[str, RunFolder], test: Split, *, seed: int, device: torch.device, progress: StageProgress
) -> None:
    """Write into each run which test images are classified right, under each of `THREATS`; see `JUDGED`."""
    progress.epoch(f"judging {', '.join(runs)}", 0, 1, len(test))
    first = next(iter(runs.values()))
    classifier, attack = first.load_classifier().to(device), PGD.of(first.recipe.evaluation)
    purifiers = {arm: nn.Identity() if arm == ALONE else run.load_student().to(device) for arm, run in runs.items()}
    found: dict[str, dict[str, list[Correct]]] = {arm: {threat: [] for threat in THREATS} for arm in runs}
    generator = torch.Generator(device).manual_seed(seed)
    for images, labels in batches(test, device):
        seen = {"clean": images, "grey-box": attack(classifier, images, labels, generator=generator)}
        for arm, purifier in purifiers.items():
            for threat in THREATS:
                found[arm][threat].append(right(nn.Sequential(purifier, classifier), seen[threat], labels))
        progress.advance(len(labels), "")
    for arm, run in runs.items():
        arrays: dict[str, Any] = {threat: np.concatenate(parts) for threat, parts in found[arm].items()}
        with atomic(run.path / JUDGED) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)


if __name__ == "__main__":
    guarded(main, when_interrupted=GOES_ON)
