"""A whole training: data, four stages, evaluation and pictures, into one run folder."""

import logging
import shutil
from typing import Any

import torch

from purify_edge.errors import InputError
from purify_edge.files import file_sha256, write_json
from purify_edge.shell.stages import StageProgress
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.datasets import IMAGE_FOLDER
from purify_toolkit.data.folders.class_map import read_class_names
from purify_toolkit.data.splits import ImageData, Split
from purify_toolkit.device.choice import choose_device
from purify_toolkit.device.processes import Processes, find_processes
from purify_toolkit.device.provenance import provenance
from purify_toolkit.evaluate.accuracy import AGREEMENT, EvaluationRow, evaluate
from purify_toolkit.evaluate.plots import save_grid, save_loss_curves
from purify_toolkit.networks.onnx_program import check_exportable
from purify_toolkit.networks.pixel_classifier import PixelClassifier
from purify_toolkit.networks.user_classifier import build_classifier, check_classifier
from purify_toolkit.networks.weights import read_weights
from purify_toolkit.recipe import parse_recipe
from purify_toolkit.runs.classes import in_classes_of, in_classes_of_run
from purify_toolkit.runs.data import load_data
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.history import read_metrics
from purify_toolkit.train.cost import TrainingCost, cost_of
from purify_toolkit.train.harm import MAX_ADAPTIVE_DROP, MAX_CLEAN_DROP, harm_of
from purify_toolkit.train.request import Request, begin_folder, check_no_classifier, open_folder, take_over
from purify_toolkit.train.stages import Stages, Validation
from purify_toolkit.train.trainer import Trainer
from purify_toolkit.train.warm_start import start_from

logger = logging.getLogger("purify_edge")

GRID_ROWS = 8


def train(request: Request, progress: StageProgress) -> list[EvaluationRow]:
    """Train what is not trained yet, then evaluate; return the rows of the final evaluation.

    With `teachers_only` or `no_classifier` nothing is evaluated and the folder keeps its examples: the same request
    without them goes on.

    Where a launcher started several processes, each calls this. The first alone writes to the run folder, and
    evaluates; the others get no rows. `RunFolder.harm` tells whether the purifier is worse than none.

    Raises:
        InputError: bad recipe or data; the run folder exists (without `resume` or `force`) or is of another request.
        MissingError: no data, or no such device.
    """
    recipe = parse_recipe(request.recipe_text, source=request.recipe_name)
    if request.as_is and (not recipe.student.start or recipe.teachers):
        raise InputError(
            f"--as-is takes the purifier that a recipe begins from, and {request.recipe_name} begins from none, or has "
            "teachers; give image-folder, or --start with a recipe whose imitation is 0"
        )
    processes = find_processes(choose_device(request.device))
    if request.no_classifier:
        check_no_classifier(RunFolder(request.out), recipe)
    run = open_folder(request) if processes.is_main else RunFolder(request.out)
    with processes.one_first():
        labels, how = request.labels, request.preprocessing
        data = load_data(recipe, request.data, preprocessing=how, labels=labels, unlabelled=request.unlabelled)
    if request.limit is not None:
        data = data.limited(request.limit)
    if processes.is_main:
        data = _prepare(run, request, data, processes.device, progress)
    processes.wait()
    if not processes.is_main:
        data = in_classes_of_run(run, data, processes.device)
    stages = _train_stages(run, request, data, processes, progress)
    processes.close()
    if request.teachers_only or request.no_classifier or not processes.is_main:
        return []
    rows = _finish(run, request, data, stages.validation, progress)
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return rows


def _prepare(
    run: RunFolder, request: Request, data: ImageData, device: torch.device, progress: StageProgress
) -> ImageData:
    """Write what is known before any training, the run's identity and networks that are given; return its data.

    Their labels are the outputs of the classifier that is given, see `in_classes_of`.
    """
    own = None
    if request.no_classifier or (not request.force and run.has("classifier")):
        data = in_classes_of_run(run, data, device)
    elif request.base is not None:
        data = in_classes_of_run(request.base, data, device)
    else:
        own, data = _own_classifier(request, data, device, progress)
    begin_folder(run, request, data)
    _begin_purifiers(run, request)
    if run.recipe.dataset == IMAGE_FOLDER:
        logger.info("pictures: %s", run.input.way)
    if own is not None:
        run.save_classifier(own)
    if request.base is not None:
        take_over(run, request.base)
    if not request.no_classifier:
        cost = cost_of(run, data, device)
        progress.expect(cost.seconds)
        _tell_cost(cost, data)
    return data


def _begin_purifiers(run: RunFolder, request: Request) -> None:
    """Fail before a stage is trained where a purifier cannot begin as its recipe says; write those that stay so."""
    recipe = run.recipe
    for name in (*recipe.teachers, "student"):
        table = recipe.purifier(name)
        if table.start:
            purifier = run.new_purifier(table)
            start_from(purifier, table)
            if table.stays or (request.as_is and name == "student"):
                run.save_weights(name, purifier)


def _tell_cost(cost: TrainingCost, data: ImageData) -> None:
    """Tell how long the training takes, and where the purifier costs more than what it protects."""
    minutes = {name.replace("_", " "): seconds / 60 for name, seconds in cost.seconds.items()}
    stages = ", ".join(f"{name} {most:.0f}" for name, most in minutes.items())
    total = sum(minutes.values())
    logger.info("all will take about %.0f minutes (%s), if this machine has nothing else to do", total, stages)
    if 0 < cost.classifier < cost.student:
        height, width = data.train.images.shape[2:]
        logger.warning(
            "the purifier costs %.1f times what it protects: %.2f GFLOP an image of %dx%d, the classifier %.2f; a "
            "smaller width in [student], --start photos-small or smaller images (--size) make it cheaper",
            *(cost.student / cost.classifier, cost.student / 1e9, height, width, cost.classifier / 1e9),
        )


def _train_stages(
    run: RunFolder, request: Request, data: ImageData, processes: Processes, progress: StageProgress
) -> Stages:
    """Train what is not trained yet; return what it was made by, for its validation."""
    stages = Stages(run, data, processes=processes, no_classifier=request.no_classifier)
    for name in run.stages[:-1] if request.teachers_only else run.stages:
        if not (run.has(name) or (request.no_classifier and name == "classifier")):
            stage, count = stages.build(name), len(data.train)
            Trainer(stage, run, count=count, seed=request.seed, processes=processes, progress=progress).train()
    return stages


def _own_classifier(
    request: Request, data: ImageData, device: torch.device, progress: StageProgress
) -> tuple[PixelClassifier | None, ImageData]:
    """Return the user's classifier, checked, and the data in its classes; None where the recipe's is to be trained."""
    if request.classifier is None:
        return None, data
    channels, height, width = data.train.images.shape[1:]
    names = None if request.class_names is None else read_class_names(request.class_names)
    classes = names.names if names else data.class_names
    classifier = build_classifier(request.classifier, channels=channels, classes=len(classes))
    if request.weights is not None:
        read_weights(classifier.network, request.weights)
    data = in_classes_of(classifier, data, class_names=names, class_map=request.class_map, device=device)
    progress.epoch("checking the classifier", 0, 1, len(data.validation))
    by_name = data.class_map is not None
    accuracy = check_classifier(classifier, data.validation, data.class_names, device, by_name=by_name)
    check_exportable(classifier.cpu(), (channels, height, width))
    progress.advance(len(data.validation), _found(data, accuracy))
    return classifier, data


def _found(data: ImageData, accuracy: float) -> str:
    """Return what the check of the user's classifier found."""
    if data.unlabelled:
        return f"its answers on {len(data.validation)} validation images are their labels"
    doubt = "" if data.own_validation else "; they are from the training part, on which it may have been trained"
    return f"right on {100 * accuracy:.2f}% of {len(data.validation)} validation images{doubt}"


def _finish(
    run: RunFolder, request: Request, data: ImageData, validation: Validation, progress: StageProgress
) -> list[EvaluationRow]:
    device = validation.device
    rows = evaluate_run(run, data.test, seed=request.seed, device=device, progress=progress)
    harm = {"harm": _harm(run, request, validation)}
    write_json(run.path / "metrics.json", metrics(run, rows, device) | harm)
    history = read_metrics(run)
    if history:
        save_loss_curves(history, run.path / "losses.png")
    classifier, student = run.load_classifier(), run.load_student()
    attack, shown = PGD.of(run.recipe.evaluation), data.test[:GRID_ROWS]
    save_grid(classifier, student, shown, data.class_names, attack, run.path / "grid.png")
    return rows


def _harm(run: RunFolder, request: Request, validation: Validation) -> list[str]:
    """Return what harm the purifier does, a sentence each."""
    limit = request.max_clean_drop
    if limit is None:
        limit = MAX_ADAPTIVE_DROP if run.recipe.adaptive else MAX_CLEAN_DROP
    student = run.load_student().to(validation.device)
    measure = {"measure": AGREEMENT} if run.is_unlabelled else {}
    return list(harm_of(student, validation, max_clean_drop=limit, **measure))


def evaluate_run(
    run: RunFolder, test: Split, *, seed: int, device: torch.device, progress: StageProgress
) -> list[EvaluationRow]:
    """Evaluate a run's classifier and student on test images, see `accuracy.evaluate`."""
    progress.epoch("evaluation", 0, 1, len(test))
    return evaluate(
        run.load_classifier().to(device),
        run.load_student().to(device),
        test,
        PGD.of(run.recipe.evaluation),
        seed=seed,
        device=device,
        advance=lambda images: progress.advance(images, ""),
    )


def metrics(run: RunFolder, rows: list[EvaluationRow], device: torch.device) -> dict[str, Any]:
    """Return what metrics.json holds: the rows, and what they were measured on."""
    weights = {name: file_sha256(run.weights_path(name)) for name in ("classifier", "student")}
    identity = {key: run.info[key] for key in ("recipe", "recipe_sha256", "seed", "limit", "dataset", "commit")}
    return (
        identity
        | ({"measures": AGREEMENT} if run.is_unlabelled else {})
        | {"weights_sha256": weights, "device": str(device), "rows": [row.as_dict() for row in rows]}
        | {"evaluated_with": provenance()}
    )
