"""The builders to use: the requested ones, or those that are installed and can do what the options say."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from purify_edge.engines.tensorrt.build import resolve
from purify_edge.engines.tensorrt.cudart import Device, open_cuda
from purify_edge.engines.tensorrt.library import EXTRAS, Builder, Library, load_library
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.errors import InputError, MissingError

BUILDERS: dict[str, Builder] = {extra: builder for builder, extra in EXTRAS.items()}
"""What users call a builder -> the builder."""


@dataclass(frozen=True)
class Target:
    """A builder, and the GPU that it builds for; None where it builds ahead of time, for GPUs that need not be here."""

    library: Library
    device: Device | None


def open_targets(
    builders: Sequence[Builder],
    options: BuildOptions,
    precisions: Collection[str],
    *,
    named: bool,
    here: bool,
    tell: Callable[[str], None],
) -> list[Target]:
    """Open builders that can do what the options ask for graphs of these precisions, before long work with them.

    Args:
        named: they were requested by name: one that cannot do it is an error. Else it is left out.
        here: engines are for this machine: for its GPU, where it has one. Else for any that the options say.
        tell: gets the reason why a builder is left out.

    Raises:
        InputError: no builder is left, because each lacks a requested feature.
        MissingError: one that was named is not installed, or needs a GPU.
    """
    targets: list[Target] = []
    refused: InputError | None = None
    for builder in builders:
        try:
            targets.append(_opened(builder, options, precisions, here))
        except (InputError, MissingError) as error:
            if named:
                raise
            if isinstance(error, InputError):
                refused = refused or error
            tell(f"no {EXTRAS[builder]} engines: {error}")
    if refused and not targets:
        raise refused
    return targets


def _opened(builder: Builder, options: BuildOptions, precisions: Collection[str], here: bool) -> Target:
    library = load_library(builder)
    ahead = library.features.compute_capabilities
    try:
        device = open_cuda().device if here or not ahead else None
    except MissingError:
        if not ahead:
            raise
        device = None
    for precision in precisions:
        library.refuse(resolve(options, library, device), precision)
    return Target(library, device)
