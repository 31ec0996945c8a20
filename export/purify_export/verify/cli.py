"""purify-verify: a bundle against the live PyTorch networks of its run."""

from pathlib import Path
from typing import Any

import click

from purify_edge.check.options import limit_options
from purify_edge.engines.options import engine_options, policy_from
from purify_edge.shell.command import Command
from purify_export.verify.options import Amounts, amount_options


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("run")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The run's dataset, for all of its test images; default those in the run, else as purify-train finds them.",
)
@amount_options
@click.option("--engine", default="auto", show_default=True, help="auto, all that work here, or one by name.")
@engine_options
@click.option("--precision", "precisions", multiple=True, help="Verify only this precision; may be repeated.")
@limit_options
@click.option("--allow-failed", is_flag=True, help="Accept a bundle that failed at its export.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.version_option(package_name="purify-edge")
def main(
    bundle: Path,
    run: str,
    data: Path | None,
    amounts: Amounts,
    engine: str,
    no_build: bool,
    trust_engines: bool,
    verify: Path | None,
    precisions: tuple[str, ...],
    allow_failed: bool,
    as_json: bool,
    **limits: Any,
) -> None:
    """Compare BUNDLE's engines with the PyTorch networks of RUN, a run's folder or the name of a pair that ships.

    The images are clean, noisy and attacked with PyTorch's gradients (grey-box: of the classifier alone; white-box: of
    the purifier too), and attacked by Square on the engine itself. Then layers are compared. The exit code is 1 if a
    limit is broken.
    """
    click.echo("importing PyTorch and ONNX", err=True)
    from purify_edge.bundle.reader import Bundle
    from purify_edge.check.limits import Limits
    from purify_edge.document.terminal import print_document
    from purify_export.verify.report import document_of, encode
    from purify_export.verify.verify import verify as verify_bundle
    from purify_toolkit.runs.pretrained import open_run

    report = verify_bundle(
        Bundle.open(bundle, verify=verify, allow_failed=allow_failed),
        open_run(run),
        amounts,
        data=data,
        engine=engine,
        precisions=precisions,
        limits=Limits(**limits),
        policy=policy_from(no_build=no_build, trust_engines=trust_engines),
        tell=lambda text: click.echo(f"  {text}", err=True),
    )
    if as_json:
        click.echo(encode(report), nl=False)
    else:
        print_document(document_of(report))
    if not report.passed:
        raise click.exceptions.Exit(1)
