"""The export: from two PyTorch modules, images and labels to a checked bundle, in one call."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from purify_edge.bundle.manifest import Pixels, Preprocessing
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Report
from purify_edge.bundle.signing import require_key
from purify_edge.bundle.writer import refuse
from purify_edge.engines.registry import require_engine
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.errors import InputError
from purify_export.bundle import write_bundle
from purify_export.engines import check_targets
from purify_export.inputs import Images, Labels, Origin, attack_table, checked_images, checked_input
from purify_export.options import MAX_ACCURACY_DROP, ROUNDS, ExportOptions
from purify_export.progress import Tell, silent


class ExportResult(NamedTuple):
    """The bundle that was written, `bundle.path` being its folder, and the report of its check."""

    bundle: Bundle
    report: Report


def export(
    purifier: nn.Module,
    classifier: nn.Module,
    images: Images,
    labels: Labels,
    *,
    out: str | Path,
    fp16: bool = True,
    int8: bool = False,
    bf16: bool = False,
    class_names: Sequence[str] | None = None,
    epsilon: float = 8 / 255,
    steps: int = 20,
    relative_step: float = 0.125,
    seed: int = 0,
    name: str | None = None,
    calibration: tuple[Images, Labels] | None = None,
    preprocessing: Preprocessing | None = None,
    max_accuracy_drop: float = MAX_ACCURACY_DROP,
    targets: Sequence[str] | None = None,
    served: Pixels | None = None,
    spare_clean: bool = False,
    integrations: bool = False,
    build: BuildOptions | None = None,
    sign: Path | None = None,
    force: bool = False,
    rounds: int = ROUNDS,
    origin: Origin | None = None,
    tell: Tell = silent,
) -> ExportResult:
    """Export a purifier and a classifier as a bundle, every model of which was checked against PyTorch.

    A bundle with a model that breaks a limit is marked as failed and goes to `OUT.failed`; `report.passed` tells.

    Args:
        purifier: images float32 `[N, C, H, W]` in [0, 1] -> the same; in evaluation mode, on the CPU.
        classifier: such images -> logits `[N, K]`; its normalisation is part of it.
        images: uint8 `[N, H, W, C]`, or floats `[N, C, H, W]` in [0, 1], which are rounded to 8 bits; test images, as
            they should not have been trained on. Of them 256, chosen by the seed, become the golden set; of large
            ones fewer.
        labels: the true classes, integers `[N]`.
        out: the bundle's folder, not there yet.
        fp16, int8, bf16: models of this precision too, beside those in float32.
        class_names: K names; None for `class 0` and so on.
        epsilon: the size in the Linf norm of the golden set's attack (PGD) and noise, in pixels in [0, 1].
        steps: of that attack.
        relative_step: the length of a step, as a fraction of epsilon.
        seed: of the golden set's choice, attack and noise.
        name: what the bundle is called; None for the name of its folder.
        calibration: clean images and labels that INT8's ranges and the suspicion score's threshold are set on; None for
            those of `images` that the golden set leaves.
        preprocessing: how a picture of any size became one of the images, as the device is to do it too; None for
            stretched to their size, bilinear.
        max_accuracy_drop: by how much any model's accuracy may lie below PyTorch's, as a fraction.
        targets: `onnx`, `tensorrt`, `rtx`; None for ONNX and the builders of engines that are installed and work here.
        served: for other programs and servers, a graph of everything in each precision too, which gives probabilities,
            suspicion and purified images; it takes "float32" `[N, C, H, W]`, or "uint8" `[N, H, W, C]`.
        spare_clean: put the rule that spares clean images into these graphs, see `purify_edge.pipeline.sparing`.
        integrations: files for DeepStream, trtexec and C++ too; they use the served graph, which then takes "float32".
        build: for the builders of engines; None for the defaults.
        sign: a private key to sign the bundle with.
        force: replace a bundle that is there.
        rounds: timed calls for the report's latencies; 0 leaves them out.
        origin: where all this came from, for manifest and report.
        tell: gets each stage and how long it took.

    Raises:
        InputError: a network, an image or a label is not as described, `out` cannot be written, too few images are
            left to calibrate INT8 on or to spare clean images by, or there are no integrations for such images or
            served graphs.
        BuildError: a network cannot be exported or converted, or a builder that `targets` names refuses a model.
        MissingError: no engine is installed to check the models with; a target or the library to sign with is missing.
    """
    options = ExportOptions(
        fp16=fp16,
        bf16=bf16,
        int8=int8,
        max_accuracy_drop=max_accuracy_drop,
        targets=targets,
        served=served or ("float32" if integrations else None),
        spare_clean=spare_clean,
        integrations=integrations,
        build=build or BuildOptions(),
        sign=sign,
        force=force,
        rounds=rounds,
    )
    check_order(Path(out), options)
    found = checked_input(
        purifier,
        classifier,
        checked_images(images, labels),
        None if calibration is None else checked_images(*calibration),
        class_names=class_names,
        attack=attack_table(epsilon, steps, relative_step),
        preprocessing=preprocessing or Preprocessing(),
        seed=seed,
        name=name or Path(out).resolve().name,
        origin=origin or Origin(),
    )
    return ExportResult(*write_bundle(found, Path(out), options, tell))


def check_order(out: Path, options: ExportOptions) -> None:
    """Check what can be checked of an export before any network or image is there.

    Raises:
        InputError: `out` may not be written, there is no such target or key, or two options do not go together.
        MissingError: no engine is installed, or the library to sign with is not.
    """
    require_engine()
    if options.sign:
        require_key(options.sign)
    check_targets(options.targets)
    if options.integrations and options.served == "uint8":
        raise InputError("--integrations needs graphs of float32, as --served float32 writes them; leave out uint8")
    if options.spare_clean and not (options.served or options.integrations):
        raise InputError(
            "--spare-clean puts its rule into the graphs of --served or --integrations: add one of them; purify-run "
            "and purify-serve have an option of the same name"
        )
    refuse(out, force=options.force)
