"""From a run to a bundle: models, engines, golden set, parity, report, manifest."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from purify_edge.bundle.golden import GoldenSplit, encode_golden
from purify_edge.bundle.manifest import (
    SCHEMA_VERSION,
    GoldenEntry,
    InputContract,
    Manifest,
    ModelEntry,
    Precision,
    Role,
    encode_manifest,
)
from purify_edge.bundle.reader import MANIFEST, Bundle
from purify_edge.bundle.report import Report
from purify_edge.bundle.signing import require_key
from purify_edge.bundle.writer import BundleWriter
from purify_edge.check.check import BATCHES, check_bundle, some_images
from purify_edge.check.limits import Limits
from purify_edge.check.page.files import FORMATS
from purify_edge.check.subject import subject_of
from purify_edge.engines import require_engine
from purify_edge.engines.latency import Contestant
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.engines.tensorrt.store import LOCK
from purify_export.convert.convert import Converted, Source, convert
from purify_export.convert.flop import flop
from purify_export.convert.int8_search import Pair
from purify_export.convert.onnx_from_torch import check_graph, onnx_from_torch
from purify_export.engines import targets_from, write_engines
from purify_export.evaluation import evaluated
from purify_export.gate import gate
from purify_export.golden import golden_from_run
from purify_export.images import FILTER, calibration_of, check_calibration, check_size, images_of, resized
from purify_export.threshold import threshold_of
from purify_toolkit.runs.folder import RunFolder

ROUNDS = 50  # of the latency measurement: the whole command is to take less than a minute
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Networks:
    """A run's trained pair, on the CPU, in evaluation mode, and the two composed."""

    purifier: nn.Module
    classifier: nn.Module
    defended: nn.Module

    @classmethod
    def load(cls, run: RunFolder) -> "Networks":
        """Read the weights."""
        purifier, classifier = run.load_student(), run.load_classifier()
        return cls(purifier, classifier, nn.Sequential(purifier, classifier).eval())


def export_run(
    run: RunFolder,
    out: Path,
    *,
    precisions: Sequence[Precision],
    force: bool,
    tell: Tell,
    data: Path | None = None,
    size: tuple[int, int] | None = None,
    max_accuracy_drop: float = Limits.max_accuracy_drop,
    targets: Sequence[str] | None = None,
    options: BuildOptions | None = None,
    sign: Path | None = None,
) -> tuple[Bundle, Report]:
    """Write the bundle of a run; one that breaks a limit is marked as failed and goes to `OUT.failed`.

    Args:
        run: a finished training.
        out: the bundle's folder, not there yet.
        precisions: of the models; fp32 first.
        force: replace a bundle that is there.
        tell: told each stage and how long it took.
        data: the run's dataset, for golden set and calibration; without it the test images that travel with the run.
        size: height and width of the images; None for those that the run was trained on.
        max_accuracy_drop: by how much any model's accuracy may lie below PyTorch's, as a fraction.
        targets: see `targets_from`.
        options: for the builders; None for the defaults.
        sign: a private key to sign the bundle with.

    Raises:
        InputError: the run is not finished, `data` does not fit it, too few images are left to calibrate INT8 on, the
            classifier does not take images of `size`, or `out` cannot be written.
        BuildError: a network cannot be exported or converted, or a TensorRT builder refuses a model.
        MissingError: no engine is installed to check the models with; no test images can be had; a target or the
            library to sign with is not here.
    """
    require_engine()
    if sign:
        require_key(sign)
    options = options or BuildOptions()
    built: list[Precision] = [precision for precision in precisions if precision != "fp32"] or ["fp32"]
    builders = targets_from(targets, options, built, tell)
    with BundleWriter(out, force=force) as writer:
        with _stage(tell, f"loading {run.path}"):
            networks = Networks.load(run)
            trained = tuple(run.info["image_shape"][1:])
            shape = (run.info["image_shape"][0], *(size or trained))
            check_size(networks.classifier, shape, len(run.info["class_names"]))
        with _stage(tell, "test images"):
            images = images_of(run, data)
            if "int8" in precisions:
                check_calibration(run, images.others, tell)
            samples, others = (resized(part, shape[1:]) for part in (images.judging, images.others))
        with _stage(tell, "golden set"):
            splits, attack = golden_from_run(
                networks.classifier, networks.purifier, samples, run.recipe.evaluation, seed=run.info["seed"]
            )
        with _stage(tell, f"suspicion threshold: {len(others.labels)} clean images"):
            suspicion = threshold_of(networks.classifier, networks.purifier, others, source=images.source, tell=tell)
            golden = GoldenEntry(
                file=writer.add("golden.npz", encode_golden(splits)),
                splits={name: len(split) for name, split in splits.items()},
                attack=attack,
                resized="" if shape[1:] == trained else f"from {trained[0]}x{trained[1]} by {FILTER}",
            )
        source = Source(_pair(networks, shape, tell), splits, max_drop=max_accuracy_drop)
        if "int8" in precisions:
            with _stage(tell, "calibration of INT8"):
                source = replace(source, calibration=calibration_of(run, networks.classifier, others))
        converted, models, graphs = _write_models(writer, source, precisions, tell)
        to_build = [model for model in models if model.precision in built]
        engines = write_engines(writer, to_build, graphs, builders, options, partial(_stage, tell), tell)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=run.info["recipe"],
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            producer={name: version(name) for name in ("purify-edge", "torch", "onnx", "onnxscript")},
            input=InputContract(channels=shape[0], height=shape[1], width=shape[2]),
            class_names=tuple(run.info["class_names"]),
            models=tuple(models),
            engines=tuple(engines),
            golden=golden,
            provenance=run.provenance(),
            suspicion=suspicion,
        )
        limits = Limits(max_accuracy_drop=max_accuracy_drop)
        with _stage(tell, "parity and latency against PyTorch"):
            writer.add(MANIFEST, encode_manifest(manifest))  # engines that the check builds are recorded in it
            bundle = Bundle(writer.path, manifest)
            report = check_bundle(
                bundle,
                limits=limits,
                rounds=ROUNDS,
                also_timed=_reference_calls(networks, splits["clean"]),
            )
            subject = subject_of(bundle, report)
            manifest = Bundle.open(writer.path).manifest
            (writer.path / LOCK).unlink(missing_ok=True)
        with _stage(tell, "gate"):
            report = gate(report, bundle, converted, splits, limits)
            accuracy, curve = evaluated(run, tell)
            report = msgspec.structs.replace(report, accuracy=accuracy, curve=curve)
        broken = tuple(check.name for check in report.checks if not check.passed)
        written = {
            suffix: writer.add(f"report{suffix}", encode(report, replace(subject, manifest=manifest)))
            for suffix, encode in FORMATS.items()
        }
        manifest = msgspec.structs.replace(
            manifest, report=written.pop(".json"), pages=tuple(written.values()), failed=broken
        )
        return writer.finish(manifest, sign=sign), report


@contextmanager
def _stage(tell: Tell, title: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    tell(f"{title}: {time.perf_counter() - start:.1f} s")


def _pair(networks: Networks, image_shape: tuple[int, int, int], tell: Tell) -> Pair:
    """The float32 graphs that all others are made from."""
    with _stage(tell, "purifier to ONNX"):
        purifier = onnx_from_torch(networks.purifier, image_shape=image_shape, output="purified")
    with _stage(tell, "classifier to ONNX"):
        classifier = onnx_from_torch(networks.classifier, image_shape=image_shape, output="logits")
    return Pair(purifier, classifier)


def _write_models(
    writer: BundleWriter, source: Source, precisions: Sequence[Precision], tell: Tell
) -> tuple[dict[Precision, Converted], list[ModelEntry], dict[tuple[Role, Precision], bytes]]:
    found: dict[Precision, Converted] = {}
    entries, graphs = [], {}
    for precision in precisions:
        with _stage(tell, f"models/*.{precision}.onnx"):
            found[precision] = convert(source, precision)
            for role, model in found[precision].graphs.items():
                check_graph(model)
                graphs[role, precision] = model.SerializeToString(deterministic=True)
                entry = writer.add(f"models/{role}.{precision}.onnx", graphs[role, precision])
                entries.append(ModelEntry(role=role, precision=precision, file=entry, flop=flop(model)))
    return found, entries, graphs


def _reference_calls(networks: Networks, split: GoldenSplit) -> dict[Contestant, Callable[[], Any]]:
    """PyTorch's own pipeline, to be timed in the same rounds."""

    def call(batch: int) -> Callable[[], Any]:
        x = (torch.from_numpy(some_images(split, batch)).permute(0, 3, 1, 2).float() / 255).contiguous()

        def run() -> Any:
            with torch.inference_mode():
                return networks.defended(x)

        return run

    return {Contestant("pytorch", "fp32", "pipeline", batch): call(batch) for batch in BATCHES}
