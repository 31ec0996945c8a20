"""purify-serve: a bundle as a model of NVIDIA's Triton."""

from pathlib import Path
from typing import Any

import click

from purify_edge.shell.command import Command
from purify_edge.shell.options import verify_option

FOLDER = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
NATIVE = click.Choice(["onnxruntime", "tensorrt", "openvino"])


@click.command(cls=Command)
@click.argument("bundle", type=FOLDER)
@click.argument("repository", type=FOLDER)
@click.option("--name", help="Name of the model; default the bundle's name.")
@click.option("--model-version", "version", type=COUNT, help="Version in the repository; default the next number.")
@click.option("--files", is_flag=True, help="Take image files of any size, in place of pixels of the bundle's size.")
@click.option("--native", type=NATIVE, help="Let this backend of the server run the bundle's served graph.")
@click.option("--instances", default=1, show_default=True, type=COUNT, help="Processes, each with its own pipeline.")
@click.option("--max-batch", default=64, show_default=True, type=COUNT, help="Images that run together at most.")
@click.option("--engine", default="auto", show_default=True, help="As in purify-run.")
@click.option("--precision", default="auto", show_default=True, help="As in purify-run; with --native, auto is fp32.")
@click.option("--spare-clean", is_flag=True, help="As in purify-run; adds an output spared.")
@click.option(
    "--replica",
    "replicas",
    multiple=True,
    metavar="HOST:HTTP:GRPC",
    help="Address and ports of a server, for deploy/haproxy.cfg; may be repeated. Default two on this machine.",
)
@click.option("--image", help="Name of the container's image in deploy/kubernetes.yaml.")
@verify_option
@click.option("--allow-failed", is_flag=True, help="Accept a bundle that failed at its export.")
@click.version_option(package_name="purify-edge")
def main(
    bundle: Path,
    repository: Path,
    replicas: tuple[str, ...],
    image: str | None,
    verify: Path | None,
    allow_failed: bool,
    **serving: Any,
) -> None:
    """Write BUNDLE into REPOSITORY as a version of a model that Triton's Python backend runs.

    REPOSITORY/serve.sh starts the server; REPOSITORY/deploy has files for HAProxy, a container, Kubernetes and a
    dashboard. The bundle is verified now, and again when the server loads it. The Python that the server runs models
    with needs `purify-edge[cpu]`, or another extra with an engine; docs/serving.md says which numpy.
    """
    from purify_edge.bundle.reader import Bundle
    from purify_edge.engines.registry import engine_row
    from purify_edge.serve.config import Serving
    from purify_edge.serve.deployment import ON_THIS_HOST, Deployment, write_deployment
    from purify_edge.serve.repository import write_model

    deployment = Deployment(replicas=replicas or ON_THIS_HOST, image=image)
    if serving["engine"] != "auto":
        engine_row(serving["engine"])
    opened = Bundle.open(bundle, verify=verify, allow_failed=allow_failed)
    written = write_model(opened, repository, Serving(**serving))
    click.echo(f"{written}: {opened.manifest.name}, manifest SHA-256 {opened.sha256}")
    for path in write_deployment(repository, written.parent.name, deployment, contract=opened.manifest.input):
        click.echo(f"{path} was changed and is not replaced; remove it and run this again for a new one", err=True)
    click.echo(f"start: PURIFY_ADMIN_KEY=... {repository / 'serve.sh'}", err=True)
