"""purify-export: a run's purifier and classifier as a checked bundle."""

from pathlib import Path
from typing import Any

import click

from purify_runtime.cli.options import build_options, build_options_from
from purify_toolkit.cli.command import Command


@click.command(cls=Command)
@click.argument("run", required=False)
@click.option("--fp16", is_flag=True, help="Export float16 models too, beside the float32 ones.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The run's dataset, for the golden set; default the images in the run, else as purify-train finds them.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The bundle's folder; default bundles/NAME.")
@click.option("--targets", help="What to write: onnx,tensorrt,rtx; default onnx and what is installed and works here.")
@build_options
@click.option(
    "--sign", type=click.Path(path_type=Path), metavar="KEY", help="Private key (PEM) to sign the bundle with."
)
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.version_option(package_name="purify-edge")
def main(
    run: str | None,
    fp16: bool,
    data: Path | None,
    out: Path | None,
    targets: str | None,
    sign: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Export RUN: a folder that purify-train wrote, or the name of a pair that ships; default fashion-mnist.

    Writes models, golden set, report and manifest, and TensorRT engines where a builder is installed. Exit
    code 1 when a model does not agree with PyTorch; the report then says which, and the bundle is there to look at.
    """
    asked = build_options_from(**options)
    click.echo("importing PyTorch and ONNX", err=True)
    from purify_export.export import export_run
    from purify_runtime.cli.tables import print_report
    from purify_runtime.report import encode_report
    from purify_toolkit.pretrained import open_run

    folder = open_run(run)
    bundle, report = export_run(
        folder,
        out or Path("bundles") / folder.path.resolve().name,
        precisions=("fp32", "fp16") if fp16 else ("fp32",),
        force=force,
        data=data,
        targets=None if targets is None else targets.split(","),
        options=asked,
        sign=sign,
        tell=lambda text: click.echo(f"  {text}", err=True),
    )
    if as_json:
        click.echo(encode_report(report), nl=False)
    else:
        print_report(report)
    click.echo(f"bundle: {bundle.path}", err=True)
    if not report.passed:
        raise click.exceptions.Exit(1)
