"""The request for a training, and the run folder that it begins or continues."""

import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from purify_edge.bundle.manifest import Preprocessing
from purify_edge.errors import InputError
from purify_edge.files import atomic, file_sha256, write_json
from purify_toolkit.data.splits import ImageData
from purify_toolkit.device.provenance import provenance
from purify_toolkit.networks.doors.doors import file_of
from purify_toolkit.networks.user_classifier import ClassifierSource
from purify_toolkit.recipe import Recipe, parse_recipe
from purify_toolkit.runs.data import choose_samples
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import open_purifier


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request to `purify-train`; together with the data it determines the result."""

    recipe_name: str  # what run.json calls the recipe
    recipe_text: str  # the recipe, in TOML
    out: Path  # the run folder
    data: Path | None = None  # the folder that holds the dataset; None to look for it
    labels: Path | None = None  # a table of the images in `data` and their classes
    unlabelled: bool = False  # take the classifier's own answers for labels
    class_map: Path | None = None  # which output of the classifier each folder is
    class_names: Path | None = None  # the names of its outputs, in their order
    seed: int = 0  # of every random choice
    limit: int | None = None  # how many images of each part to use; None for all
    device: str = "auto"  # the name of the device, see `choose_device`
    preprocessing: Preprocessing = field(default_factory=Preprocessing)  # how a picture becomes the networks' input
    resume: bool = False  # go on with what is in `out`
    force: bool = False  # replace the run that is in `out`
    # classifier: one of the user's own, which is then not trained; weights: a file of them, where it has none
    classifier: ClassifierSource | None = None
    weights: Path | None = None
    # a finished run for the same data, whose classifier is taken, and its teachers where the recipe would train the
    # same
    base: RunFolder | None = None
    as_is: bool = False  # leave the student what the recipe's `start` is, untrained
    teachers_only: bool = False  # stop before the student
    no_classifier: bool = False  # train the student alone, by the teachers and examples of the run, and judge nothing
    max_clean_drop: float | None = None  # how much clean accuracy the purifier may take; None: see `train.harm`


def open_folder(request: Request) -> RunFolder:
    """Return the run folder: new, to be replaced, or one that this very request may resume."""
    run = RunFolder(request.out)
    if not request.out.exists():
        return run
    if request.force:
        if not (request.out / "run.json").is_file():
            raise InputError(f"{request.out} is not a run folder, and --force replaces no other; --out names another")
        if request.base is not None and request.base.path.resolve() == request.out.resolve():
            raise InputError(f"--base {request.base.path} would be replaced; --out names another folder")
        _check_starts(request)
        return run
    if not request.resume:
        raise InputError(
            f"{request.out} exists; --resume goes on with it, --force replaces it, --out names another folder"
        )
    if not request.out.is_dir():
        raise InputError(f"{request.out} is not a folder")
    if all(path.name.startswith(".") for path in request.out.iterdir()):  # interrupted before anything was whole
        return run
    asked, found = _identity(request, run), {"preprocessing": _as_json(Preprocessing()), "as_is": False} | run.info
    differing = [
        f"{key}: {found.get(key)!r} there, {value!r} requested"
        for key, value in asked.items()
        if found.get(key) != value
    ]
    if differing:
        raise InputError(f"{request.out} is of another training ({'; '.join(differing)}); --out names another folder")
    return run


def _check_starts(request: Request) -> None:
    """Refuse to replace a run that the request begins a purifier from."""
    recipe = parse_recipe(request.recipe_text, source=request.recipe_name)
    for table in (recipe.student, *map(recipe.purifier, recipe.teachers)):
        if table.start and open_purifier(table.start).path.resolve() == request.out.resolve():
            raise InputError(f"--force would replace {table.start}, which it begins from; --out names another folder")


def check_no_classifier(run: RunFolder, recipe: Recipe) -> None:
    """Raise InputError where a student cannot be trained by what a run folder holds but for the classifier."""
    weights = recipe.distillation
    if recipe.adaptive or weights.classifier_guidance or weights.feature_guidance:
        raise InputError(
            "the recipe's student asks the classifier; for --no-classifier take a copy without [adaptive], with "
            "classifier_guidance = 0 and feature_guidance = 0 (teacher_guidance is the teacher's own)"
        )
    if run.is_unlabelled:
        raise InputError(f"the labels of {run.path} are the classifier's answers, so that it cannot be done without")
    missing = [run.weights_path(name).name for name in recipe.teachers if not run.has(name)]
    if run.load_examples() is None:
        missing.append(f"checkpoints/{run.checkpoint_path('examples').name}, the adversarial examples")
    if missing:
        raise InputError(
            f"{run.path} has no {', no '.join(missing)}; train it first where the classifier is, with --teachers-only, "
            "and copy the folder"
        )


def begin_folder(run: RunFolder, request: Request, data: ImageData) -> None:
    """Write what identifies the run, once its data and its base were found to be those that it was begun with."""
    if request.base is not None:
        _check_base(request, request.base, data)
    identity = _identity(request, run)
    if request.force:
        shutil.rmtree(run.path, ignore_errors=True)
        run.__dict__.pop("info", None)  # cached, of the run that was there
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
        own: dict[str, Any] = {"class_map": data.class_map, "unlabelled": data.unlabelled}
        own["labels"] = request.labels.name if request.labels else None
        about |= {key: value for key, value in own.items() if value}
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


def _check_base(request: Request, base: RunFolder, data: ImageData) -> None:
    recipe = parse_recipe(request.recipe_text, source=request.recipe_name)
    asked = {
        "dataset": data.name,
        "class_names": list(data.class_names),
        "image_shape": list(data.train.images.shape[1:]),
    }
    for key, value in asked.items():
        if value != base.info[key]:
            raise InputError(f"--base {base.path} does not fit: its {key} is {base.info[key]}, here {value}")
    if request.preprocessing != base.input.preprocessing:
        raise InputError(
            f"--base {base.path} does not fit: its preprocessing is {base.input.preprocessing}, here "
            f"{request.preprocessing}"
        )
    if not base.info.get("classifier") and recipe.classifier != base.recipe.classifier:
        raise InputError(f"--base {base.path} does not fit: the table [classifier] of its recipe.toml is another one")


def take_over(run: RunFolder, base: RunFolder) -> None:
    """Copy the networks of another run that the recipe would train just so."""
    if not run.has("classifier"):
        run.save_classifier(base.load_classifier())
    for name in run.recipe.teachers:
        if run.recipe.same_teacher(name, base.recipe) and base.has(name) and not run.has(name):
            run.save_weights(name, base.load_teacher(name))


def _identity(request: Request, run: RunFolder) -> dict[str, Any]:
    """Return what run.json must say for the request to go on with a run; a base's classifier may be its user's own.

    Without the classifier nothing can be said of it: it is the run's.
    """
    identity: dict[str, Any] = {
        "recipe": request.recipe_name,
        "recipe_sha256": hashlib.sha256(request.recipe_text.encode()).hexdigest(),
        "seed": request.seed,
        "limit": request.limit,
        "preprocessing": _as_json(request.preprocessing),
        "as_is": request.as_is,
        "classifier": None,
    }
    if request.classifier is not None:
        identity["classifier"] = request.classifier.as_dict()
        if request.weights is not None and request.weights.is_file():  # else read_weights will say what is wrong
            identity["classifier"]["weights_sha256"] = file_sha256(request.weights)
        file = file_of(request.classifier.factory, request.out)
        if file is not None:
            identity["classifier"]["file_sha256"] = file_sha256(file)
    if request.no_classifier:
        identity |= {key: run.info[key] for key in ("classifier", "base") if key in run.info}
    if request.base is not None:
        path = request.base.weights_path("classifier")
        if not path.is_file():
            raise InputError(
                f"--base {request.base.path} has no {path.name}; expected a run that purify-train finished"
            )
        identity["base"] = {"run": request.base.info["recipe"], "classifier_sha256": file_sha256(path)}
        identity["classifier"] = request.base.info.get("classifier")
    return identity


def _as_json(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the content for run.json, as it comes back from there."""
    content: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(preprocessing))
    return content
