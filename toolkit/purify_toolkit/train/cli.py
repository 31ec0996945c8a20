"""purify-train: classifier, two teachers and student, from a recipe to a run folder."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from purify_edge.shell.command import Command
from purify_edge.shell.options import MAX_SEED, Number, image_size, option_object
from purify_toolkit.runs.options import (
    PICTURE_OPTIONS,
    check_existing,
    data_option,
    device_option,
    existing_options,
    labels_option,
    picture_options,
)

if TYPE_CHECKING:
    from purify_toolkit.runs.folder import RunFolder
    from purify_toolkit.train.request import Request

FOLDER = click.Path(path_type=Path)


def _numbers(context: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...]:
    """Return a number for each channel from `0.49,0.48,0.45`."""
    try:
        return tuple(float(number) for number in value.split(",")) if value else ()
    except ValueError as error:
        raise click.BadParameter(f"expected numbers with commas between, 0.49,0.48,0.45, got {value!r}") from error


def _check_labels(
    classifier: str | None,
    labels: Path | None,
    unlabelled: bool,
    class_map: Path | None,
    class_names: Path | None,
    **_: Any,
) -> None:
    """Refuse options for labels that do not go together."""
    if classifier is None and (unlabelled or class_map or class_names):
        raise click.UsageError("--unlabelled, --class-map and --class-names are about your own: they need --classifier")
    if unlabelled and (labels or class_map):
        raise click.UsageError("--unlabelled takes the classifier's answers for labels: no --labels or --class-map")


def _is_main() -> bool:
    """Return whether this process reports for all that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def _request(
    recipe: str,
    out: Path | None,
    size: tuple[int, int] | None,
    classifier: str | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    colour: str | None,
    base: str | None,
    resume: bool,
    force: bool,
    start: str | None,
    from_scratch: bool,
    **others: Any,
) -> "Request":
    """Return the request that the options make."""
    check_existing(resume, force)
    if (mean or std or colour or others["weights"]) and classifier is None:
        raise click.UsageError(
            "--weights, --mean, --std and --colour are those of your own classifier: they need --classifier"
        )
    if from_scratch and (start or others["as_is"]):
        raise click.UsageError("--from-scratch leaves out the purifier that --start and --as-is take; give one of them")
    if others["no_classifier"] and (classifier or base or others["as_is"] or others["teachers_only"] or not resume):
        raise click.UsageError(
            "--no-classifier goes on with a run whose teachers are trained: it needs --resume, and does not go with "
            "--classifier, --base, --as-is or --teachers-only"
        )
    if others["teachers_only"] and others["as_is"]:
        raise click.UsageError("--teachers-only trains teachers, --as-is nothing; give one of them")
    if base and classifier:
        raise click.UsageError("--base takes that run's classifier: it does not go with --classifier")
    _check_labels(classifier, **others)
    if _is_main():
        click.echo("importing PyTorch", err=True)
    from purify_toolkit.data.published_input import PublishedInput
    from purify_toolkit.networks.doors.doors import kept_in, published_input
    from purify_toolkit.networks.user_classifier import ClassifierSource
    from purify_toolkit.recipe import find_recipe, read_recipe, with_start, without_start
    from purify_toolkit.runs.pictures import PictureFlags, settle
    from purify_toolkit.runs.pretrained import open_purifier, open_run
    from purify_toolkit.train.request import Request

    path, flags = find_recipe(recipe), PictureFlags(**{name: others.pop(name) for name in PICTURE_OPTIONS})
    text = without_start(read_recipe(path)) if from_scratch else read_recipe(path)
    if start:
        text = with_start(text, start, open_purifier(start).recipe.student.network)
    run, out = None if base is None else open_run(base), out or Path("runs") / path.stem

    others["unlabelled"] |= run is not None and run.is_unlabelled

    def published() -> PublishedInput | None:
        if run is not None:
            return PublishedInput(run.input.preprocessing)
        return None if classifier is None else published_input(kept_in(classifier, out) if resume else classifier)

    text, preprocessing = settle(text, source=recipe, size=size, flags=flags, published=published)
    return Request(
        recipe_name=path.stem,
        recipe_text=text,
        preprocessing=preprocessing,
        out=out,
        classifier=None
        if classifier is None
        else ClassifierSource(classifier, mean, std, bool(others["weights"]), colour or ""),
        base=run,
        resume=resume,
        force=force,
        **others,
    )


@click.command(cls=Command)
@option_object(
    "request",
    _request,
    click.argument("recipe"),
    click.option("--out", type=FOLDER, help="Run folder; default runs/RECIPE."),
    data_option,
    labels_option,
    click.option(
        "--unlabelled", is_flag=True, help="Images have no labels: use your classifier's own answers as labels."
    ),
    click.option(
        "--size",
        callback=image_size,
        metavar="HxW",
        help="Resize the images of a folder; without it all need one size.",
    ),
    picture_options,
    click.option(
        "--seed", default=0, show_default=True, type=click.IntRange(0, MAX_SEED), help="Seed of every random choice."
    ),
    device_option,
    click.option("--classifier", metavar="SOURCE", help="Your own classifier; the text above names the kinds."),
    click.option(
        "--weights", type=FOLDER, help="Its weights: safetensors, or any checkpoint of torch that holds them."
    ),
    click.option("--class-map", type=FOLDER, help="Which of its outputs each folder is: FOLDER,INDEX or FOLDER,NAME."),
    click.option("--class-names", type=FOLDER, help="The names of its outputs in their order, one a line, or as JSON."),
    click.option(
        "--mean",
        callback=_numbers,
        help="Mean that the classifier's images are normalised by: 0.49,0.48,0.45.",
    ),
    click.option(
        "--std",
        callback=_numbers,
        help="Standard deviation; without both it takes pixels in [0, 1].",
    ),
    click.option(
        "--colour",
        type=click.Choice(["rgb", "bgr"]),
        help="Order of the classifier's channels; images and purifier stay RGB. Default rgb.",
    ),
    click.option(
        "--base", metavar="RUN", help="Take classifier and teachers from a finished run; or the name of a pair."
    ),
    click.option(
        "--max-clean-drop",
        type=Number(0, 1),
        help="How much clean accuracy the purifier may take, a fraction; default 0.03, of an adaptive recipe 0.2.",
    ),
    click.option(
        "--start", metavar="RUN", help="Begin from this run's purifier, or that of a name that ships, at its size."
    ),
    click.option("--from-scratch", is_flag=True, help="Begin from random weights where the recipe begins from a pair."),
    click.option("--as-is", is_flag=True, help="Train no purifier: evaluate the one that it would begin from."),
    click.option(
        "--teachers-only", is_flag=True, help="Stop before the student; the same command with --resume continues."
    ),
    click.option(
        "--no-classifier",
        is_flag=True,
        help="With --resume: train the student with the folder's teachers and examples, without the classifier.",
    ),
    click.option("--limit", type=click.IntRange(min=1), help="Use only so many images of each part: a quick trial."),
    existing_options(resume="Continue an interrupted run.", force="Replace an existing run."),
)
@click.option("--json", "as_json", is_flag=True, help="Print the evaluation as JSON.")
@click.version_option(package_name="purify-edge")
def main(request: "Request", as_json: bool) -> None:
    """Train the purifier of RECIPE: a shipped recipe's name, or the path of a .toml file.

    With --classifier, the purifier is trained for your own classifier, which may be:
    PACKAGE.MODULE:CALLABLE or FILE.py:CALLABLE, called without arguments; torchvision:NAME[:WEIGHTS], timm:NAME or
    hf:FOLDER_OR_NAME; or a file: .onnx, .pt2 (torch.export) or .pt (TorchScript). The classifier is never changed.

    The exit code is 1 if the purifier costs too much clean accuracy or does not help attacked images. More steps,
    epochs or images can help then.

    Progress goes to standard error, the final evaluation to standard output. After an interruption the
    same command with --resume continues from the last full epoch.

    `torchrun --nproc-per-node 2 -m purify_toolkit.train.cli RECIPE ...` trains on two GPUs, or with --device cpu by two
    processes. The recipe's batch is divided among them. Several machines need a run folder that all of them see.
    """
    from purify_edge.shell.stages import QuietProgress, RichProgress
    from purify_toolkit.evaluate.tables import print_rows
    from purify_toolkit.runs.folder import RunFolder
    from purify_toolkit.runs.history import EVENTS
    from purify_toolkit.train.train import train

    if _is_main():
        _tell_precision(request)
    try:
        with RichProgress() if _is_main() else QuietProgress() as progress:
            rows = train(request, progress)
    except KeyboardInterrupt:
        if _is_main():
            click.echo("\ninterrupted; the same command with --resume goes on from the last full epoch", err=True)
        raise click.exceptions.Exit(130) from None
    if _is_main() and (request.teachers_only or request.no_classifier):
        done = "the teachers are" if request.teachers_only else "the student is"
        click.echo(
            f"{done} trained in {request.out}; nothing is judged yet: the same command with --resume, without this "
            "option, goes on where the classifier is",
            err=True,
        )
    elif _is_main():
        print_rows(rows, as_json=as_json, agreement=RunFolder(request.out).is_unlabelled)
        click.echo(f"run folder: {request.out}", err=True)
        if (request.out / EVENTS).is_dir():
            click.echo(f"its curves: tensorboard --logdir {request.out / EVENTS}", err=True)
        _tell_harm(RunFolder(request.out))


def _tell_harm(run: "RunFolder") -> None:
    """End with 1 where the purifier is worse than none."""
    for sentence in run.harm:
        click.echo(f"Error: {sentence}", err=True)
    if run.harm:
        click.echo(
            f"Do not use this purifier. Look at {run.path / 'grid.png'}. {what_helps(run)} If that cost is acceptable, "
            "the same command with --resume and a higher --max-clean-drop judges it again.",
            err=True,
        )
        raise click.exceptions.Exit(1)


def what_helps(run: "RunFolder") -> str:
    """Return what may help a purifier that does harm."""
    table = run.recipe.student
    if run.info.get("as_is") or table.stays:
        return "It was not trained for this classifier; a training (without --as-is, or with a length) may help."
    epochs, steps = table.length(run.info["images"]["train"])
    return (
        f"The student took {epochs * steps:,} steps of {table.batch_size} images; more steps (in a copy of the recipe) "
        "or more images give it more."
    )


def _tell_precision(request: "Request") -> None:
    """Tell where the processor does not compute in the recipe's precision."""
    from purify_toolkit.device.choice import choose_device
    from purify_toolkit.device.precision import precision_on
    from purify_toolkit.recipe import parse_recipe

    wanted = parse_recipe(request.recipe_text, source=request.recipe_name).precision
    found = precision_on(choose_device(request.device), wanted)
    if found != wanted:
        click.echo(f"this processor has no {wanted}, which the recipe asks for: training in {found}", err=True)


if __name__ == "__main__":
    main()
