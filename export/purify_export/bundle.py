"""The bundle of an export: golden set, models, engines, their check, report and manifest."""

import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import onnx
import torch

from purify_edge.bundle.golden import GoldenSplit, encode_golden
from purify_edge.bundle.golden_files import encode_files
from purify_edge.bundle.manifest import (
    MANIFEST,
    ROLES,
    SCHEMA_VERSION,
    EngineEntry,
    GoldenEntry,
    Manifest,
    ModelEntry,
    Precision,
    Role,
    SuspicionEntry,
    encode_manifest,
)
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Check, Report
from purify_edge.bundle.writer import BundleWriter
from purify_edge.check.check import ALL, BATCHES, check_with_examples, some_images
from purify_edge.check.limits import Limits
from purify_edge.check.page.checked_bundle import CheckedBundle
from purify_edge.check.page.files import FORMATS
from purify_edge.engines.latency import Contestant
from purify_edge.engines.tensorrt.store import LOCK
from purify_edge.errors import InputError
from purify_export.convert.convert import ConversionInput, Converted, convert
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.metadata import About, describe
from purify_export.convert.onnx_from_torch import check_graph
from purify_export.convert.served import served
from purify_export.engines import targets_from, write_engines
from purify_export.gate import gate
from purify_export.images.calibration import Thresholds, calibration_of, check_calibration, thresholds_of
from purify_export.images.files import golden_files
from purify_export.images.golden import golden_set
from purify_export.inputs import ExportInput
from purify_export.integrations.files import check_channels, integration_files
from purify_export.networks import Networks
from purify_export.options import ExportOptions
from purify_export.progress import Tell, stage
from purify_export.publish.sbom import FILE, sbom_of
from purify_toolkit.attacks.gradient import PGD

Graphs = dict[tuple[Role, Precision], bytes]


def write_bundle(given: ExportInput, out: Path, options: ExportOptions, tell: Tell) -> tuple[Bundle, Report]:
    """Write the bundle; one that breaks a limit is marked as failed and goes to `OUT.failed`.

    Raises:
        InputError: too few images are left to calibrate INT8 on, there is no threshold to spare clean images by, or
            `out` cannot be written.
        BuildError: a network cannot be exported or converted, or a TensorRT builder refuses a model.
        MissingError: a target or the library to sign with is not here.
    """
    targets = targets_from(options.targets, options.build, options.built, tell)
    if options.integrations:
        check_channels(given.contract)
    if options.int8:
        check_calibration(given.others, tell)
    with BundleWriter(out, force=options.force) as writer:
        golden, thresholds, source = _material(given, writer, options, tell)
        about = _about(given, golden, thresholds.suspicion)
        converted, models, graphs = _write_models(writer, given, source, about, thresholds, options, tell)
        to_build = [model for model in models if model.precision in options.built and model.role in ROLES]
        engines = write_engines(
            writer, to_build, graphs, targets, options.build, named=options.targets is not None, tell=tell
        )
        manifest = _manifest(given, golden, thresholds, models, engines)
        manifest = _with_sbom(writer, manifest, given)
        if options.integrations:
            manifest = _with_integrations(writer, manifest, graphs, options, tell)
        report, checked = _checked(writer, manifest, given.networks, source.golden, options, tell)
        bundle = Bundle(writer.path, checked.manifest)
        with stage(tell, "gate") as note:
            limits = Limits(max_accuracy_drop=options.max_accuracy_drop)
            report = gate(report, bundle, converted, source.golden, limits, note)
            harm = (Check(name=sentence, value=1, limit=0, passed=False) for sentence in given.origin.harm)
            report = msgspec.structs.replace(
                report.with_checks(*harm), accuracy=given.origin.accuracy, curve=given.origin.curve
            )
        return writer.finish(_with_report(writer, report, checked), sign=options.sign), report


def _material(
    given: ExportInput, writer: BundleWriter, options: ExportOptions, tell: Tell
) -> tuple[GoldenEntry, Thresholds, ConversionInput]:
    """Return what is made of the images: the golden set, the thresholds, and what is converted."""
    networks, others = given.networks, given.others
    with stage(tell, "golden set") as note:
        splits, attack = golden_set(networks, given.judging, given.attack, seed=given.seed, note=note)
        file = writer.add("golden.npz", encode_golden(splits))
        pictures = golden_files(given.judging.images, given.contract)
        files = writer.add("golden-files.zip", encode_files(pictures)) if pictures else None
    with stage(tell, f"thresholds: {len(others)} clean images") as note:
        thresholds = thresholds_of(
            networks,
            others,
            given.judging,
            PGD.of(given.attack),
            source=given.origin.others,
            seed=given.seed,
            tell=tell,
            note=note,
        )
    if options.spare_clean and thresholds.spare is None:
        raise InputError(
            "there is no threshold to spare clean images by: it takes 19 clean images outside the golden set, here are "
            f"{len(given.others)}, and a purifier with which the rule does no harm; leave --spare-clean out"
        )
    with stage(tell, "purifier and classifier to ONNX"):
        pair = GraphPair.from_torch(networks.purifier, networks.classifier, given.image_shape)
    source = ConversionInput(pair, splits, max_drop=options.max_accuracy_drop)
    if options.int8:
        with stage(tell, "calibration of INT8") as note:
            images = calibration_of(networks, others, given.attack, seed=given.seed, note=note)
            source = replace(source, calibration=images)
    counts = {name: len(split) for name, split in splits.items()}
    entry = GoldenEntry(file=file, splits=counts, attack=attack, resized=given.origin.resized, files=files)
    return entry, thresholds, source


def _about(given: ExportInput, golden: GoldenEntry, suspicion: SuspicionEntry | None) -> About:
    """Return what every model says of itself."""
    return About(
        name=given.name,
        version=version("purify-edge"),
        input=given.contract,
        class_names=given.class_names,
        suspicion={"score": suspicion.score, "threshold": suspicion.threshold} if suspicion else None,
        golden_sha256=golden.file.sha256,
    )


def _write_models(
    writer: BundleWriter,
    given: ExportInput,
    source: ConversionInput,
    about: About,
    thresholds: Thresholds,
    options: ExportOptions,
    tell: Tell,
) -> tuple[dict[Precision, Converted], list[ModelEntry], Graphs]:
    found: dict[Precision, Converted] = {}
    entries, graphs = [], {}
    flop = given.networks.flop(given.image_shape)
    spare = thresholds.spare if options.spare_clean else None
    rule = {"threshold": spare.threshold} if spare else None
    for precision in options.precisions:
        with stage(tell, f"models/*.{precision}.onnx") as note:
            found[precision] = convert(source, precision, note)
            written: dict[Role, onnx.ModelProto] = {**found[precision].graphs}
            if options.served:
                halves = GraphPair(deepcopy(written["purifier"]), deepcopy(written["classifier"]))
                written["served"] = served(halves, given.contract, thresholds.suspicion, options.served, spare)
            for role, model in written.items():
                check_graph(model)
                describe(model, replace(about, spare=rule) if role == "served" else about)
                graphs[role, precision] = model.SerializeToString(deterministic=True)
                file = writer.add(f"models/{role}.{precision}.onnx", graphs[role, precision])
                entry = ModelEntry(role=role, precision=precision, file=file, flop=flop[role])
                if role == "served":
                    pixels = options.served or "float32"
                    entry = msgspec.structs.replace(entry, pixels=pixels, spare_clean=options.spare_clean)
                entries.append(entry)
    return found, entries, graphs


def _manifest(
    given: ExportInput,
    golden: GoldenEntry,
    thresholds: Thresholds,
    models: list[ModelEntry],
    engines: list[EngineEntry],
) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=given.name,
        created=_now().isoformat(timespec="seconds"),
        producer={name: version(name) for name in ("purify-edge", "torch", "onnx", "onnxscript")},
        input=given.contract,
        class_names=given.class_names,
        models=tuple(models),
        engines=tuple(engines),
        golden=golden,
        provenance=dict(given.origin.provenance),
        suspicion=thresholds.suspicion,
        spare=thresholds.spare,
    )


def _with_sbom(writer: BundleWriter, manifest: Manifest, given: ExportInput) -> Manifest:
    """Write what the bundle is made of; return the manifest with it."""
    content = sbom_of(manifest, licence=given.origin.licence, accuracy=given.origin.accuracy)
    return msgspec.structs.replace(manifest, sbom=writer.add(FILE, content))


def _with_integrations(
    writer: BundleWriter, manifest: Manifest, graphs: Graphs, options: ExportOptions, tell: Tell
) -> Manifest:
    """Write the files for other runtimes; return the manifest with them."""
    with stage(tell, "files for DeepStream, trtexec and C++"):
        served = {precision: graph for (role, precision), graph in graphs.items() if role == "served"}
        written = integration_files(
            manifest.input, manifest.class_names, manifest.suspicion, served, options.build.batch
        )
        entries = tuple(writer.add(path, content) for path, content in written)
    return msgspec.structs.replace(manifest, integrations=entries)


def _now() -> datetime:
    """Return the time, or the one that reproducible builds set (reproducible-builds.org)."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(fixed), timezone.utc) if fixed else datetime.now(timezone.utc)


def _checked(
    writer: BundleWriter,
    manifest: Manifest,
    networks: Networks,
    golden: Mapping[str, GoldenSplit],
    options: ExportOptions,
    tell: Tell,
) -> tuple[Report, CheckedBundle]:
    """Return the runtime's report of the bundle, PyTorch timed with it, and what its page shows.

    Engines that the check builds are recorded in the manifest, which is what comes back.
    """
    with stage(tell, "parity and latency against PyTorch") as note:
        writer.add(MANIFEST, encode_manifest(manifest))
        report, about = check_with_examples(
            Bundle(writer.path, manifest),
            precisions=(ALL,),
            limits=Limits(max_accuracy_drop=options.max_accuracy_drop),
            rounds=options.rounds,
            also_timed=_reference_calls(networks, golden["clean"]),
            tell=note,
        )
        (writer.path / LOCK).unlink(missing_ok=True)
        return report, replace(about, manifest=Bundle.open(writer.path).manifest)


def _reference_calls(networks: Networks, split: GoldenSplit) -> dict[Contestant, Callable[[], Any]]:
    """Return PyTorch's own pipeline, to be timed in the same rounds."""

    def call(batch: int) -> Callable[[], Any]:
        x = (torch.from_numpy(some_images(split, batch)).permute(0, 3, 1, 2).float() / 255).contiguous()

        def run() -> Any:
            with torch.inference_mode():
                return networks.defended(x)

        return run

    return {Contestant("pytorch", "fp32", "pipeline", batch): call(batch) for batch in BATCHES}


def _with_report(writer: BundleWriter, report: Report, about: CheckedBundle) -> Manifest:
    """Write the report and its pages; return the manifest with them, and with the limits that broke."""
    written = {suffix: writer.add(f"report{suffix}", encode(report, about)) for suffix, encode in FORMATS.items()}
    broken = tuple(check.name for check in report.checks if not check.passed)
    return msgspec.structs.replace(
        about.manifest, report=written.pop(".json"), pages=tuple(written.values()), failed=broken
    )
