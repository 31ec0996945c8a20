"""Engines in a new bundle: which builders, with which options, and what becomes of one that cannot build here."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from purify_export.bundle_writer import BundleWriter
from purify_runtime.engine_files import engine_entry
from purify_runtime.engines.trt.build import build_engine
from purify_runtime.engines.trt.cudart import Device, open_cuda
from purify_runtime.engines.trt.library import EXTRAS, Builder, Library, installed_builders, load_library
from purify_runtime.engines.trt.options import BuildOptions
from purify_runtime.errors import InputError, MissingError
from purify_runtime.manifest import EngineEntry, ModelEntry, Precision, Role
from purify_runtime.trust import trust

BUILDERS: dict[str, Builder] = {extra: builder for builder, extra in EXTRAS.items()}
TARGETS = ("onnx", *BUILDERS)
Tell = Callable[[str], None]
Stage = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Target:
    """A builder, and the GPU at hand."""

    library: Library
    device: Device | None


def open_targets(
    names: Sequence[str] | None, options: BuildOptions, precisions: Sequence[str], tell: Tell
) -> list[Target]:
    """The builders to use, before long work that ends with them.

    Args:
        names: of TARGETS, `onnx` being written always; None for the builders that are installed and work here.
        options: what they are asked for.
        precisions: of the graphs that they are to build.
        tell: told why a builder that was not asked for by name is left out.

    Raises:
        InputError: no such target, or a builder has not what is asked for.
        MissingError: a builder that was asked for is not installed, or needs a GPU.
    """
    unknown = [name for name in names or () if name not in TARGETS]
    if unknown:
        raise InputError(f"no target {', '.join(unknown)}; known: {', '.join(TARGETS)}")
    builders = installed_builders() if names is None else [BUILDERS[name] for name in names if name in BUILDERS]
    return list(_opened(builders, options, precisions, tell, required=names is not None))


def _opened(
    builders: Sequence[Builder], options: BuildOptions, precisions: Sequence[str], tell: Tell, *, required: bool
) -> Iterator[Target]:
    for builder in builders:
        try:
            target = Target(library := load_library(builder), _device(library))
        except MissingError as error:
            if required:
                raise
            tell(f"no {EXTRAS[builder]} engines: {error}")
            continue
        for precision in precisions:
            target.library.refuse(options, precision)
        yield target


def _device(library: Library) -> Device | None:
    """None for builders that need no GPU: their engines in a bundle are for other machines than this."""
    return None if library.features.compute_capabilities else open_cuda().device


def write_engines(
    writer: BundleWriter,
    models: Sequence[ModelEntry],
    graphs: Mapping[tuple[Role, Precision], bytes],
    targets: Sequence[Target],
    options: BuildOptions,
    stage: Stage,
    tell: Tell,
) -> list[EngineEntry]:
    """An engine of each model by each builder.

    Args:
        writer: of the bundle.
        models: to be built.
        graphs: role and precision -> ONNX graph.
        targets: see `open_targets`.
        options: for the builders.
        stage: tells the title of a stage and how long it took.
        tell: told the layers that a DLA leaves to the GPU.

    Raises:
        MissingError, InputError, BuildError: see `build_engine`.
    """
    entries = []
    for target in targets:
        for model in models:
            source = model.file.path
            with stage(f"{source}, {target.library.title}"):
                built = build_engine(
                    graphs[model.role, model.precision],
                    library=target.library,
                    options=options,
                    precision=model.precision,
                    source=source,
                    device=target.device,
                )
            for layer in built.gpu_layers:
                tell(f"{source}: the DLA leaves {layer} to the GPU")
            entry = engine_entry(model, target.library, built)
            writer.add(entry.file.path, built.content)
            trust(entry.file.sha256)
            entries.append(entry)
    return entries
