"""From a run to a bundle: models, engines, golden set, parity, report, manifest."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from purify_export.bundle_writer import BundleWriter
from purify_export.engines import open_targets, write_engines
from purify_export.golden_from_run import golden_from_run
from purify_export.onnx_from_torch import onnx_from_torch
from purify_export.ranges import range_check
from purify_runtime.bundle import MANIFEST, Bundle
from purify_runtime.check import BATCHES, check_bundle, some_images
from purify_runtime.engine_files import LOCK
from purify_runtime.engines import require_engine
from purify_runtime.engines.trt.options import BuildOptions
from purify_runtime.golden import GoldenSplit, encode_golden
from purify_runtime.latency import Contestant
from purify_runtime.manifest import (
    SCHEMA_VERSION,
    GoldenEntry,
    InputContract,
    Manifest,
    ModelEntry,
    Precision,
    Role,
    encode_manifest,
)
from purify_runtime.report import Report, encode_report
from purify_runtime.signing import require_key
from purify_toolkit.run_folder import RunFolder
from purify_toolkit.train import samples_of

OUTPUTS: dict[Role, str] = {"purifier": "purified", "classifier": "logits", "defended": "logits"}
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
    targets: Sequence[str] | None = None,
    options: BuildOptions | None = None,
    sign: Path | None = None,
) -> tuple[Bundle, Report]:
    """Write the bundle of a run.

    Args:
        run: a finished training.
        out: the bundle's folder, not there yet.
        precisions: of the models; fp32 first.
        force: replace a bundle that is there.
        tell: told each stage and how long it took.
        data: the run's dataset, for the golden set; without it the test images that travel with the run.
        targets: see `open_targets`; engines are built of the last precision.
        options: for the builders; None for the defaults.
        sign: a private key to sign the bundle with.

    Raises:
        InputError: the run is not finished, `data` does not fit it, or `out` cannot be written.
        BuildError: a TensorRT builder refuses a model.
        MissingError: no engine is installed to check the models with; no test images can be had; a target or the
            library to sign with is not here.
    """
    require_engine()
    if sign:
        require_key(sign)
    options = options or BuildOptions()
    builders = open_targets(targets, options, precisions[-1], tell)
    with BundleWriter(out, force=force) as writer:
        with _stage(tell, f"loading {run.path}"):
            networks = Networks.load(run)
            channels, height, width = run.info["image_shape"]
        with _stage(tell, "test images"):
            samples = samples_of(run, data)
        models, graphs = _write_models(writer, networks, (channels, height, width), precisions, tell)
        last = [model for model in models if model.precision == precisions[-1]]
        engines = write_engines(writer, last, graphs, builders, options, partial(_stage, tell), tell)
        with _stage(tell, "golden set"):
            splits, attack = golden_from_run(
                networks.classifier, networks.purifier, samples, run.recipe.evaluation, seed=run.info["seed"]
            )
            golden = GoldenEntry(
                file=writer.add("golden.npz", encode_golden(splits)),
                splits={name: len(split) for name, split in splits.items()},
                attack=attack,
            )
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=run.info["recipe"],
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            producer={name: version(name) for name in ("purify-edge", "torch", "onnx", "onnxscript")},
            input=InputContract(channels=channels, height=height, width=width),
            class_names=tuple(run.info["class_names"]),
            models=tuple(models),
            engines=tuple(engines),
            golden=golden,
            provenance=run.provenance(),
        )
        with _stage(tell, "parity and latency against PyTorch"):
            writer.add(MANIFEST, encode_manifest(manifest))  # engines that the check builds are recorded in it
            report = check_bundle(
                Bundle(writer.path, manifest), rounds=ROUNDS, also_timed=_reference_calls(networks, splits["clean"])
            )
            manifest = Bundle.open(writer.path).manifest
            (writer.path / LOCK).unlink(missing_ok=True)
        if "fp16" in precisions:
            with _stage(tell, "range of every layer on the golden images"):
                report = report.with_checks(range_check(networks.defended, splits))
        entry = writer.add("report.json", encode_report(report))
        return writer.finish(msgspec.structs.replace(manifest, report=entry), sign=sign), report


@contextmanager
def _stage(tell: Tell, title: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    tell(f"{title}: {time.perf_counter() - start:.1f} s")


def _write_models(
    writer: BundleWriter,
    networks: Networks,
    image_shape: tuple[int, int, int],
    precisions: Sequence[Precision],
    tell: Tell,
) -> tuple[list[ModelEntry], dict[tuple[Role, Precision], bytes]]:
    entries, graphs = [], {}
    for precision in precisions:
        for role, output in OUTPUTS.items():
            path = f"models/{role}.{precision}.onnx"
            with _stage(tell, path):
                network = getattr(networks, role)
                graph = onnx_from_torch(network, image_shape=image_shape, precision=precision, output=output)
                entries.append(ModelEntry(role=role, precision=precision, file=writer.add(path, graph)))
                graphs[role, precision] = graph
    return entries, graphs


def _reference_calls(networks: Networks, split: GoldenSplit) -> dict[Contestant, Callable[[], Any]]:
    """PyTorch's own pipeline, to be timed in the same rounds."""

    def call(batch: int) -> Callable[[], Any]:
        x = (torch.from_numpy(some_images(split, batch)).permute(0, 3, 1, 2).float() / 255).contiguous()

        def run() -> Any:
            with torch.inference_mode():
                return networks.defended(x)

        return run

    return {Contestant("pytorch", "fp32", "pipeline", batch): call(batch) for batch in BATCHES}
