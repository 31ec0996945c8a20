"""purify-build: the TensorRT engines of a bundle, built for this device ahead of time."""

from pathlib import Path
from typing import Any

import click

from purify_edge.engines.options import build_options, build_options_from
from purify_edge.shell.command import Command
from purify_edge.shell.options import verify_option


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--engine", "engines", multiple=True, help="tensorrt or rtx; default those that are installed.")
@click.option("--precision", "precisions", multiple=True, help="Build only this precision; may be repeated.")
@build_options
@verify_option
@click.option("--force", is_flag=True, help="Build all engines again, also those that fit.")
@click.option("--allow-failed", is_flag=True, help="Accept a bundle that failed at its export.")
@click.option("--json", "as_json", is_flag=True, help="Print the engines as JSON.")
@click.version_option(package_name="purify-edge")
def main(
    bundle: Path,
    engines: tuple[str, ...],
    precisions: tuple[str, ...],
    verify: Path | None,
    force: bool,
    allow_failed: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Build the engines of BUNDLE for this device, so that no command needs to wait for them. Needs no torch.

    An engine is kept if it fits, and was built here or is in a bundle that --verify accepts. TensorRT for RTX also
    builds without a GPU, for the compute capabilities that you name.
    """
    from purify_edge.build.build import build_bundle, print_engines, tell_plan
    from purify_edge.bundle.reader import Bundle

    asked = build_options_from(**options)
    opened = Bundle.open(bundle, verify=verify, allow_failed=allow_failed)
    built = build_bundle(opened, engines=engines, precisions=precisions, options=asked, force=force)
    print_engines(built, as_json=as_json)
    tell_plan(opened)
