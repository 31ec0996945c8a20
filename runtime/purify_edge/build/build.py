"""What purify-build does: each model of a bundle with each builder, with progress."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from purify_edge.bundle.manifest import ROLES, ModelEntry
from purify_edge.bundle.reader import Bundle
from purify_edge.engines.plan import open_plan
from purify_edge.engines.tensorrt.build import BuiltEngine
from purify_edge.engines.tensorrt.library import installed_builders
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.engines.tensorrt.store import EngineFiles, EnginePolicy
from purify_edge.engines.tensorrt.targets import BUILDERS, Target, open_targets
from purify_edge.errors import BuildError, InputError, MissingError


@dataclass(frozen=True, kw_only=True)
class BuildResult:
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
) -> list[BuildResult]:
    """Build what is missing or does not fit; with `force` what fits, too.

    Without engines it is for all whose builder is installed, without precisions for all that the bundle has.

    Raises:
        InputError, MissingError, BuildError: see `open_targets` and `build_engine`.
    """
    bundle.verify()
    models = _models(bundle, precisions)
    targets = _targets(engines, options, models)
    outcomes: list[BuildResult] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for target in targets:
            for model in models:
                task = progress.add_task(f"{model.file.path}, {target.library.title}", total=1.0)

                def tell(phase: str, done: float, task: Any = task) -> None:
                    progress.update(task, completed=done)

                outcomes.append(_build(bundle, model, target, options, force, tell))
                progress.remove_task(task)
    return outcomes


def _models(bundle: Bundle, precisions: Sequence[str]) -> list[ModelEntry]:
    known = bundle.precisions("defended")
    unknown = [precision for precision in precisions if precision not in known]
    if unknown:
        raise InputError(f"{bundle.path} has no {', '.join(unknown)}, only {', '.join(known)}")
    ours = [model for model in bundle.manifest.models if model.role in ROLES]
    return [model for model in ours if not precisions or model.precision in precisions]


def _targets(engines: Sequence[str], options: BuildOptions, models: Sequence[ModelEntry]) -> list[Target]:
    unknown = [name for name in engines if name not in BUILDERS]
    if unknown:
        raise InputError(f"no engine {', '.join(unknown)} that is built; known: {', '.join(BUILDERS)}")
    told: list[str] = []
    builders = list(dict.fromkeys(BUILDERS[name] for name in engines)) or installed_builders()
    precisions = {model.precision for model in models}
    targets = open_targets(builders, options, precisions, named=bool(engines), here=True, tell=told.append)
    if not targets:
        none = "needs 'tensorrt' or 'rtx': pip install 'purify-edge[rtx]', or TensorRT as JetPack has it"
        raise MissingError("; ".join(told) or none)
    for line in told:
        click.echo(f"  {line}", err=True)
    return targets


def _build(
    bundle: Bundle, model: ModelEntry, target: Target, options: BuildOptions, force: bool, tell: Any
) -> BuildResult:
    start = time.perf_counter()
    files = EngineFiles(bundle=bundle, model=model)
    graph = bundle.read(model.file)
    engine, kept = files.ensure(graph, target.library, target.device, options, force=force, progress=tell)
    return BuildResult(model=model, engine=engine, kept=kept, seconds=time.perf_counter() - start)


def tell_plan(bundle: Bundle) -> None:
    """Tell on standard error what `purify-run` takes here, now that the engines are built."""
    again = Bundle.open(bundle.path, allow_failed=True)  # its manifest lists the new engines
    try:
        policy = EnginePolicy(build=False)
        with open_plan(replace(again, verified=bundle.verified), policy=policy) as planned:
            click.echo(f"  purify-run takes {planned.plan}", err=True)
    except (MissingError, BuildError) as error:
        click.echo(f"  purify-run has nothing to run on here: {error}", err=True)


def print_engines(outcomes: Sequence[BuildResult], *, as_json: bool) -> None:
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
