"""Engines in a new bundle: by which builders, and where they go."""

from collections.abc import Mapping, Sequence

from purify_edge.bundle.manifest import EngineEntry, ModelEntry, Precision, Role
from purify_edge.bundle.writer import BundleWriter
from purify_edge.engines.tensorrt.build import BuiltEngine, build_engine
from purify_edge.engines.tensorrt.library import installed_builders
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.engines.tensorrt.store import engine_entry, trust
from purify_edge.engines.tensorrt.targets import BUILDERS, Target, open_targets
from purify_edge.errors import BuildError, InputError
from purify_export.progress import Tell, stage

TARGETS = ("onnx", *BUILDERS)


def check_targets(names: Sequence[str] | None) -> None:
    """Raise InputError where one of the names is none of TARGETS."""
    unknown = [name for name in names or () if name not in TARGETS]
    if unknown:
        raise InputError(f"no target {', '.join(map(repr, unknown))}; known: {', '.join(TARGETS)}")


def targets_from(
    names: Sequence[str] | None, options: BuildOptions, precisions: Sequence[str], tell: Tell
) -> list[Target]:
    """Return the builders that the names of targets mean; None means those that are installed and work here.

    Raises:
        InputError: no such target, or a builder lacks a requested feature.
        MissingError: a requested builder is not installed, or needs a GPU.
    """
    check_targets(names)
    builders = installed_builders() if names is None else [BUILDERS[name] for name in names if name in BUILDERS]
    return open_targets(
        list(dict.fromkeys(builders)), options, precisions, named=names is not None, here=False, tell=tell
    )


def write_engines(
    writer: BundleWriter,
    models: Sequence[ModelEntry],
    graphs: Mapping[tuple[Role, Precision], bytes],
    targets: Sequence[Target],
    options: BuildOptions,
    *,
    named: bool,
    tell: Tell,
) -> list[EngineEntry]:
    """Build an engine of each model by each builder, and write it.

    Raises:
        BuildError: a builder requested by name refuses a model; another that refuses is left out and reported.
        InputError, MissingError: see `build_engine`.
    """
    entries = []
    for target in targets:
        try:
            built = [_built(target, model, graphs[model.role, model.precision], options, tell) for model in models]
        except BuildError as error:
            if named:
                raise
            tell(f"no {target.library.title} engines: {error}")
            continue
        for model, engine in zip(models, built, strict=True):
            entry = engine_entry(model, target.library, engine)
            writer.add(entry.file.path, engine.content)
            trust(entry.file.sha256)
            entries.append(entry)
    return entries


def _built(target: Target, model: ModelEntry, graph: bytes, options: BuildOptions, tell: Tell) -> BuiltEngine:
    source = model.file.path
    with stage(tell, f"{source}, {target.library.title}"):
        built = build_engine(
            graph,
            library=target.library,
            options=options,
            precision=model.precision,
            source=source,
            device=target.device,
        )
    for layer in built.gpu_layers:
        tell(f"{source}: the DLA leaves {layer} to the GPU")
    return built
