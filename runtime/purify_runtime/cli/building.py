"""What purify-build does: each model of a bundle with each builder, with progress."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from purify_runtime.bundle import Bundle
from purify_runtime.engine_files import EngineFiles
from purify_runtime.engines.trt.build import BuiltEngine
from purify_runtime.engines.trt.cudart import Device, open_cuda
from purify_runtime.engines.trt.library import EXTRAS, Builder, Library, installed_builders, load_library
from purify_runtime.engines.trt.options import BuildOptions
from purify_runtime.errors import InputError, MissingError
from purify_runtime.manifest import ModelEntry


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An engine of a model: built, or kept because it fits; and how long that took, in seconds."""

    model: ModelEntry
    engine: BuiltEngine
    kept: bool
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "role": self.model.role,
            "precision": self.model.precision,
            "built": not self.kept,
            "seconds": round(self.seconds, 3),
            "size_bytes": len(self.engine.content),
            "fingerprint": msgspec.to_builtins(self.engine.fingerprint),
            "gpu_layers": list(self.engine.gpu_layers),
        }


def build_bundle(
    bundle: Bundle, *, engines: Sequence[str], precisions: Sequence[str], options: BuildOptions, force: bool
) -> list[Outcome]:
    """Build what is missing or does not fit.

    Args:
        bundle: whose models.
        engines: names of engines; empty for all whose builder is installed.
        precisions: empty for all that the bundle has.
        options: for the builders.
        force: build what fits, too.

    Raises:
        InputError: no such engine or precision, or options that the builder has not.
        MissingError: a builder is not installed, or needs a GPU.
        BuildError: a model cannot be built.
    """
    bundle.verify()
    models = _models(bundle, precisions)
    outcomes: list[Outcome] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for library, device in _libraries(engines):
            for model in models:
                task = progress.add_task(f"{model.file.path}, {library.title}", total=1.0)

                def tell(phase: str, done: float, task: Any = task) -> None:
                    progress.update(task, completed=done)

                outcomes.append(_build(bundle, model, library, device, options, force, tell))
                progress.remove_task(task)
    return outcomes


def _models(bundle: Bundle, precisions: Sequence[str]) -> list[ModelEntry]:
    known = bundle.precisions("defended")
    unknown = [precision for precision in precisions if precision not in known]
    if unknown:
        raise InputError(f"{bundle.path} has no {', '.join(unknown)}, only {', '.join(known)}")
    return [model for model in bundle.manifest.models if not precisions or model.precision in precisions]


def _libraries(engines: Sequence[str]) -> Iterable[tuple[Library, Device | None]]:
    builders: dict[str, Builder] = {extra: builder for builder, extra in EXTRAS.items()}
    unknown = [name for name in engines if name not in builders]
    if unknown:
        raise InputError(f"no engine {', '.join(unknown)} that is built; known: {', '.join(builders)}")
    wanted = [builders[name] for name in engines] or installed_builders()
    if not wanted:
        raise MissingError("needs 'tensorrt' or 'rtx': pip install 'purify-edge[rtx]', or TensorRT as JetPack has it")
    for builder in wanted:
        library = load_library(builder)
        yield library, _device(library)


def _device(library: Library) -> Device | None:
    """The GPU; none is needed to build ahead of time."""
    try:
        return open_cuda().device
    except MissingError:
        if library.features.compute_capabilities:
            return None
        raise


def _build(
    bundle: Bundle,
    model: ModelEntry,
    library: Library,
    device: Device | None,
    options: BuildOptions,
    force: bool,
    tell: Any,
) -> Outcome:
    start = time.perf_counter()
    files = EngineFiles(bundle=bundle, model=model)
    engine, kept = files.ensure(bundle.read(model.file), library, device, options, force=force, progress=tell)
    return Outcome(model=model, engine=engine, kept=kept, seconds=time.perf_counter() - start)


def print_engines(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    """Print what was built."""
    if as_json:
        click.echo(json.dumps([outcome.as_dict() for outcome in outcomes], indent=2))
        return
    table = Table("model", "builder", "for", "batch", "MB", "s", "", box=SIMPLE_HEAD)
    for outcome in outcomes:
        fingerprint = outcome.engine.fingerprint
        table.add_row(
            f"{outcome.model.role} {outcome.model.precision}",
            f"{fingerprint.builder} {fingerprint.builder_version}",
            fingerprint.gpu or ", ".join(fingerprint.compute_capabilities),
            ",".join(map(str, fingerprint.batch)),
            f"{len(outcome.engine.content) / 1e6:.1f}",
            f"{outcome.seconds:.1f}",
            "kept" if outcome.kept else "built",
        )
    Console().print(table)
    for outcome in outcomes:
        if outcome.engine.gpu_layers:
            click.echo(f"{outcome.model.file.path}: left to the GPU: {', '.join(outcome.engine.gpu_layers)}", err=True)
