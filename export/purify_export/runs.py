"""The export of a run: its networks, its images and its figures, given to `export`."""

from pathlib import Path

from torch import Tensor

from purify_export.evaluation import evaluated
from purify_export.export import ExportResult, check_order, export
from purify_export.images.samples import filter_of, images_of, resized
from purify_export.inputs import Origin
from purify_export.networks import Networks
from purify_export.options import ExportOptions
from purify_export.progress import Tell, silent, stage
from purify_toolkit.data.splits import Split
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import licence_of


def export_run(
    run: RunFolder,
    out: Path,
    options: ExportOptions | None = None,
    *,
    data: Path | None = None,
    size: tuple[int, int] | None = None,
    tell: Tell = silent,
) -> ExportResult:
    """Write the bundle of a run; see `export`.

    Args:
        run: a finished training.
        out: the bundle's folder, not there yet.
        options: what to write; None for the defaults.
        data: the run's dataset, for golden set and calibration; without it the test images that travel with the run.
        size: height and width of the images; None for those that the run was trained on.
        tell: gets each stage and how long it took.

    Raises:
        BuildError, InputError, MissingError: see `export`; the run is not finished, or `data` does not fit it.
    """
    options = options or ExportOptions()
    check_order(out, options)
    with stage(tell, f"loading {run.path}"):
        networks = Networks.load(run)
    trained, how = (run.input.height, run.input.width), run.input.preprocessing
    wanted = size or trained
    with stage(tell, "test images"):
        images = images_of(run, data, wanted)
        judging, others = (resized(part, wanted, how) for part in (images.judging, images.others))
    accuracy, curve = evaluated(run, tell)
    origin = Origin(
        provenance=run.provenance(),
        others=images.source,
        resized="" if wanted == trained else f"from {trained[0]}x{trained[1]} by {filter_of(how)}",
        accuracy=accuracy,
        curve=curve,
        harm=tuple(run.harm),
        licence=licence_of(run),
    )
    attack = run.recipe.evaluation
    return export(
        networks.purifier,
        networks.classifier,
        *_as_files(judging),
        out=out,
        class_names=run.info["class_names"],
        epsilon=attack.epsilon,
        steps=attack.steps,
        relative_step=attack.relative_step,
        seed=run.info["seed"],
        name=run.info["recipe"],
        calibration=_as_files(others) if len(others) else None,
        preprocessing=how.for_size(trained, wanted),
        origin=origin,
        tell=tell,
        **vars(options),
    )


def _as_files(images: Split) -> tuple[Tensor, Tensor]:
    """Return images as files carry them, uint8 `[N, H, W, C]`, and their labels."""
    return images.images.permute(0, 2, 3, 1), images.labels
