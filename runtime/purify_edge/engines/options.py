"""Options of commands that open or build engines: what to ask of a builder, and what may be done about engine files."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from purify_edge.engines.tensorrt.options import BuildOptions
    from purify_edge.engines.tensorrt.store import EnginePolicy

from purify_edge.shell.options import option_group, verify_option

_BUILD = (
    click.option("--batch", metavar="MIN,OPT,MAX", help="Batches the engines take; default 1,16,64."),
    click.option("--workspace", type=int, metavar="MIB", help="Scratch memory that a layer may take, in MiB."),
    click.option("--opt-level", type=int, metavar="0-5", help="0 builds fast, 5 builds the fastest engines."),
    click.option(
        "--timing-cache", type=click.Path(path_type=Path), help="File that keeps timings, for faster builds (TensorRT)."
    ),
    click.option(
        "--compute-capability",
        "compute_capabilities",
        multiple=True,
        metavar="X.Y",
        help="GPUs to build for (TensorRT for RTX), 8.6 say; may be repeated.",
    ),
    click.option("--dla", type=int, metavar="CORE", help="Run on this deep learning accelerator of a Jetson Orin."),
    click.option("--version-compatible", is_flag=True, help="Engines that later versions of TensorRT load too."),
    click.option("--hardware-compatible", is_flag=True, help="Engines for other GPUs too, Ampere and later."),
)
_ENGINES = (
    click.option("--no-build", is_flag=True, help="Refuse, rather than build an engine that is missing or unfit."),
    click.option(
        "--trust-engines", is_flag=True, help="Load the bundle's engines, which are executable code, unverified."
    ),
)
build_options = option_group(*_BUILD)
"""What `build_options_from` takes."""
engine_options = option_group(*_ENGINES, verify_option)
"""`--no-build`, `--trust-engines` and `--verify`."""


def build_options_from(
    *,
    batch: str | None,
    workspace: int | None,
    opt_level: int | None,
    timing_cache: Path | None,
    compute_capabilities: tuple[str, ...],
    dla: int | None,
    version_compatible: bool,
    hardware_compatible: bool,
) -> "BuildOptions":
    """Return the options of a builder from those of the command line.

    Raises:
        InputError: a value that no builder takes.
    """
    from purify_edge.engines.tensorrt.options import BATCH, BuildOptions

    return BuildOptions(
        batch=_batch(batch) if batch is not None else BATCH,
        workspace_mib=workspace,
        optimization_level=opt_level,
        timing_cache=timing_cache,
        compute_capabilities=tuple(sorted(set(compute_capabilities), key=_in_order)),
        dla_core=dla,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
    )


def _in_order(capability: str) -> tuple[int, str]:
    """For sorting: 8.9 comes before 12.0. The same GPUs are the same engine, in any order of the request."""
    return len(capability), capability


def _batch(text: str) -> tuple[int, int, int]:
    from purify_edge.errors import InputError

    try:
        least, usual, most = (int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--batch {text}: expected MIN,OPT,MAX, 1,16,64 say") from None
    return least, usual, most


def policy_from(*, no_build: bool, trust_engines: bool) -> "EnginePolicy":
    """Return what the command line says may be done about engine files."""
    from purify_edge.engines.tensorrt.store import EnginePolicy

    return EnginePolicy(build=not no_build, trust=trust_engines)
