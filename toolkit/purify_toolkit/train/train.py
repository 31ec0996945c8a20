"""A whole training: data, four stages, evaluation and pictures, into one run folder."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from purify_edge.errors import InputError
from purify_edge.files import atomic, file_sha256, write_json
from purify_edge.shell.stages import StageProgress
from purify_toolkit.data.splits import ImageData, Split
from purify_toolkit.device.choice import choose_device
from purify_toolkit.device.processes import Processes, find_processes
from purify_toolkit.device.provenance import provenance
from purify_toolkit.evaluate import Row, evaluate
from purify_toolkit.evaluate.plots import save_grid, save_loss_curves
from purify_toolkit.networks.user_classifier import (
    ClassifierSource,
    PixelClassifier,
    build_classifier,
    check_classifier,
    read_weights,
)
from purify_toolkit.recipe import parse_recipe
from purify_toolkit.runs.datasets import load_data, load_data_of
from purify_toolkit.runs.folder import RunFolder, Samples
from purify_toolkit.runs.history import read_metrics
from purify_toolkit.train.stages import Stages
from purify_toolkit.train.trainer import Trainer

SAMPLES = 1000
GRID_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `purify-train` was asked for; together with the data it determines the result.

    `classifier` and `weights` go together: a classifier of the user's, which then is not trained. So is `base`, a
    finished run for the same data: its classifier is taken, and its teachers where the recipe would train the same.
    """

    recipe_name: str
    recipe_text: str
    out: Path
    data: Path | None = None
    seed: int = 0
    limit: int | None = None
    device: str = "auto"
    resume: bool = False
    classifier: ClassifierSource | None = None
    weights: Path | None = None
    base: RunFolder | None = None


def train(request: Request, progress: StageProgress) -> list[Row]:
    """Train what is not trained yet, then evaluate; the rows of the final evaluation.

    Where a launcher started several processes, each calls this. The first alone writes to the run folder, and
    evaluates; the others get no rows.

    Raises:
        InputError: bad recipe or data; the run folder exists (without `resume`) or is of another request.
        MissingError: no data, or no such device.
    """
    recipe = parse_recipe(request.recipe_text, source=request.recipe_name)
    processes = find_processes(choose_device(request.device))
    run = open_folder(request) if processes.is_main else RunFolder(request.out)
    with processes.one_first():
        data = load_data(recipe, request.data)
    if request.limit is not None:
        data = data.limited(request.limit)
    if processes.is_main:
        _prepare(run, request, data, processes.device, progress)
    processes.wait()
    _train_stages(run, request, data, processes, progress)
    processes.close()
    if not processes.is_main:
        return []
    rows = _finish(run, request, data, processes.device, progress)
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return rows


def _prepare(run: RunFolder, request: Request, data: ImageData, device: torch.device, progress: StageProgress) -> None:
    """Write what is there before any training: what identifies the run, and the networks that are given."""
    if request.base is not None:
        check_base(request, data)
    own = None if run.has("classifier") else _own_classifier(request, data, device, progress)
    begin_folder(run, request, data)
    if own is not None:
        run.save_weights("classifier", own)
    if request.base is not None:
        take_over(run, request.base)


def _train_stages(
    run: RunFolder, request: Request, data: ImageData, processes: Processes, progress: StageProgress
) -> None:
    stages = Stages(run, data, processes=processes)
    for name in run.stages:
        if not run.has(name):
            stage, count = stages.build(name), len(data.train)
            Trainer(stage, run, count=count, seed=request.seed, processes=processes, progress=progress).train()


def _own_classifier(
    request: Request, data: ImageData, device: torch.device, progress: StageProgress
) -> PixelClassifier | None:
    """The user's classifier, checked; None where the recipe's is to be trained."""
    if request.classifier is None or request.weights is None:
        if request.classifier or request.weights:
            raise InputError("--classifier and --weights belong together")
        return None
    channels = data.train.images.shape[1]
    classifier = build_classifier(request.classifier, channels=channels, classes=len(data.class_names))
    read_weights(classifier.network, request.weights)
    progress.epoch("checking the classifier", 0, 1, len(data.validation))
    accuracy = check_classifier(classifier, data.validation, data.class_names, device)
    progress.advance(
        len(data.validation), f"right on {100 * accuracy:.2f}% of {len(data.validation)} validation images"
    )
    return classifier.cpu()


def check_base(request: Request, data: ImageData) -> None:
    """InputError where the run to take networks from is of other data or another classifier."""
    base, recipe = request.base, parse_recipe(request.recipe_text, source=request.recipe_name)
    assert base is not None
    asked = {
        "dataset": data.name,
        "class_names": list(data.class_names),
        "image_shape": list(data.train.images.shape[1:]),
    }
    for key, value in asked.items():
        if value != base.info[key]:
            raise InputError(f"--base {base.path} does not fit: its {key} is {base.info[key]}, here {value}")
    if not base.info.get("classifier") and recipe.classifier != base.recipe.classifier:
        raise InputError(f"--base {base.path} does not fit: the table [classifier] of its recipe.toml is another one")


def take_over(run: RunFolder, base: RunFolder) -> None:
    """Copy the networks of another run that the recipe would train just so."""
    if not run.has("classifier"):
        run.save_weights("classifier", base.load_classifier())
    for name in run.recipe.teachers:
        if run.recipe.same_teacher(name, base.recipe) and base.has(name) and not run.has(name):
            run.save_weights(name, base.load_teacher(name))


def _identity(request: Request) -> dict[str, Any]:
    return {
        "recipe": request.recipe_name,
        "recipe_sha256": hashlib.sha256(request.recipe_text.encode()).hexdigest(),
        "seed": request.seed,
        "limit": request.limit,
        "classifier": None if request.classifier is None else request.classifier.as_dict() | _weights_digest(request),
    } | _base_identity(request)


def _base_identity(request: Request) -> dict[str, Any]:
    """The run whose classifier is taken; that classifier may be its user's own."""
    if request.base is None:
        return {}
    path = request.base.weights_path("classifier")
    if not path.is_file():
        raise InputError(f"--base {request.base.path} has no {path.name}; expected a run that purify-train finished")
    return {
        "base": {
            "run": request.base.info["recipe"],
            "classifier_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        },
        "classifier": request.base.info.get("classifier"),
    }


def _weights_digest(request: Request) -> dict[str, str]:
    if request.weights is None or not request.weights.is_file():  # read_weights will say what is wrong
        return {}
    return {"weights_sha256": file_sha256(request.weights)}


def open_folder(request: Request) -> RunFolder:
    """The run folder: new, or one that this very request may resume."""
    run = RunFolder(request.out)
    if not request.out.exists():
        return run
    if not request.resume:
        raise InputError(f"{request.out} exists; --resume goes on with it, --out names another folder")
    if not request.out.is_dir():
        raise InputError(f"{request.out} is not a folder")
    if all(path.name.startswith(".") for path in request.out.iterdir()):  # interrupted before anything was whole
        return run
    asked, found = _identity(request), run.info
    differing = [
        f"{key}: {found.get(key)!r} there, {value!r} asked for"
        for key, value in asked.items()
        if found.get(key) != value
    ]
    if differing:
        raise InputError(f"{request.out} is of another training ({'; '.join(differing)}); --out names another folder")
    return run


def begin_folder(run: RunFolder, request: Request, data: ImageData) -> None:
    """Write what identifies the run, where an interrupted attempt has not done so already."""
    identity = _identity(request)
    run.path.mkdir(parents=True, exist_ok=True)
    if (run.path / "run.json").is_file():
        if run.info.get("data_sha256") != data.sha256():
            raise InputError(f"{run.path} was begun with other data; --data names the same, --out another folder")
        _note_other_code(run)
    else:
        mean, std = data.mean_std()
        about = {
            "dataset": data.name,
            "data_sha256": data.sha256(),
            "class_names": list(data.class_names),
            "image_shape": list(data.train.images.shape[1:]),
            "mean": mean,
            "std": std,
            "images": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        }
        write_json(run.path / "run.json", identity | about | provenance())
    with atomic(run.path / "recipe.toml") as temporary:
        temporary.write_text(request.recipe_text)
    run.save_samples(choose_samples(data, request.seed))


def _note_other_code(run: RunFolder) -> None:
    """Record in run.json that other code than the one that began the run goes on with it."""
    now, sessions = provenance(), [run.info, *run.info.get("resumed_with", [])]
    if any(sessions[-1].get(key) != now[key] for key in ("commit", "versions", "python")):
        write_json(run.path / "run.json", run.info | {"resumed_with": [*sessions[1:], now]})
        del run.__dict__["info"]  # cached


def choose_samples(data: ImageData, seed: int) -> Samples:
    """A random choice of test images, kept in the order of the test set."""
    chosen = np.random.default_rng(seed).permutation(len(data.test))[:SAMPLES]
    indices = torch.from_numpy(np.sort(chosen))
    split = data.test[indices]
    return Samples(split.images, split.labels, indices)


def samples_of(run: RunFolder, folder: Path | None) -> Samples:
    """The test images that travel with a run, or without them, or where `folder` is given, a choice from its dataset.

    Raises:
        InputError, MissingError: see `load_data_of`.
    """
    if folder is None and run.has_samples:
        return run.load_samples()
    return choose_samples(load_data_of(run, folder), run.info["seed"])


def _finish(
    run: RunFolder, request: Request, data: ImageData, device: torch.device, progress: StageProgress
) -> list[Row]:
    save_loss_curves(read_metrics(run), run.path / "losses.png")
    classifier, student = run.load_classifier(), run.load_student()
    save_grid(
        classifier, student, data.test[:GRID_ROWS], data.class_names, run.recipe.evaluation, run.path / "grid.png"
    )
    rows = evaluate_run(run, data.test, seed=request.seed, device=device, progress=progress)
    write_json(run.path / "metrics.json", metrics(run, rows, device))
    return rows


def evaluate_run(run: RunFolder, test: Split, *, seed: int, device: torch.device, progress: StageProgress) -> list[Row]:
    """Evaluate a run's classifier and student on test images, see `evaluation.evaluate`."""
    progress.epoch("evaluation", 0, 1, len(test))
    return evaluate(
        run.load_classifier().to(device),
        run.load_student().to(device),
        test,
        run.recipe.evaluation,
        seed=seed,
        device=device,
        advance=lambda images: progress.advance(images, ""),
    )


def metrics(run: RunFolder, rows: list[Row], device: torch.device) -> dict[str, Any]:
    """What metrics.json holds: the rows, and what they were measured on."""
    weights = {name: file_sha256(run.weights_path(name)) for name in ("classifier", "student")}
    identity = {key: run.info[key] for key in ("recipe", "recipe_sha256", "seed", "limit", "dataset", "commit")}
    return (
        identity
        | {"weights_sha256": weights, "device": str(device), "rows": [row.as_dict() for row in rows]}
        | {"evaluated_with": provenance()}
    )
