"""purify-demo: a page to try a bundle on."""

from pathlib import Path
from typing import Any

import click

from purify_edge.engines.options import engine_options, policy_from
from purify_edge.shell.command import Command

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path), default="fashion-mnist")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 lets others in.")
@click.option("--port", default=7860, show_default=True, type=click.IntRange(1, 65535), help="Port to listen at.")
@click.option("--engine", default="auto", show_default=True, help="As in purify-run.")
@engine_options
@click.option("--precision", default="auto", show_default=True, help="As in purify-run.")
@click.option("--allow-failed", is_flag=True, help="Accept a bundle that failed at its export.")
@click.version_option(package_name="purify-edge")
def main(
    bundle: Path,
    host: str,
    port: int,
    no_build: bool,
    trust_engines: bool,
    verify: Path | None,
    allow_failed: bool,
    **way: Any,
) -> None:
    """Serve a page on which to attack pictures and see what BUNDLE makes of them; default fashion-mnist, which ships.

    A picture is one of the bundle's examples, an upload, or one that the camera takes. Nothing leaves this machine, and
    uploads are removed at the end. Ctrl-C ends it.
    """
    from purify_edge.bundle.reader import Bundle
    from purify_edge.demo.playground import Playground
    from purify_edge.demo.server import prepared, serve
    from purify_edge.pipeline.pipeline import Pipeline

    opened = Bundle.open(bundle, verify=verify, allow_failed=allow_failed)
    policy = policy_from(no_build=no_build, trust_engines=trust_engines)
    if host not in LOOPBACK:
        click.echo("  whoever reaches this machine can use the page: it asks for no password", err=True)
    with prepared(host, port) as folder, Pipeline.load(opened, policy=policy, **way) as pipeline:
        playground = Playground(opened, pipeline)
        serve(playground, folder, host=host, port=port, ready=lambda url: click.echo(f"{url} (Ctrl-C ends it)"))
