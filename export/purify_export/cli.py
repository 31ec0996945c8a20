"""purify-export: a run's purifier and classifier as a checked bundle."""

from pathlib import Path
from typing import Any

import click

from purify_edge.engines.options import build_options, build_options_from
from purify_edge.shell.command import Command
from purify_edge.shell.options import Number, image_size


@click.command(cls=Command)
@click.argument("run", required=False)
@click.option("--fp16", is_flag=True, help="Float16 models too; layers that would overflow stay in float32.")
@click.option("--bf16", is_flag=True, help="Bfloat16 models too, for GPUs from compute capability 8.0 on.")
@click.option("--int8", is_flag=True, help="INT8 models too; layers that would lose too much stay in float32.")
@click.option(
    "--max-accuracy-drop",
    default=0.01,
    show_default=True,
    type=Number(0, 1),
    help="How far any model's accuracy, clean or adversarial, may lie below PyTorch's, as a fraction.",
)
@click.option(
    "--size",
    callback=image_size,
    metavar="HxW",
    help="Images of another size than the run's, where the classifier takes them; default the run's.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The run's dataset, for golden set and calibration; default the images in the run, else as purify-train "
    "finds them.",
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
    bf16: bool,
    int8: bool,
    max_accuracy_drop: float,
    size: tuple[int, int] | None,
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
    code 1 when a model does not agree with PyTorch: the report then says which, what was tried and where the first
    layer diverges, and the bundle is kept apart, as OUT.failed.
    """
    for_builders = build_options_from(**options)
    click.echo("importing PyTorch and ONNX", err=True)
    from purify_edge.bundle.manifest import Precision
    from purify_edge.bundle.report import encode_report
    from purify_edge.check.page.checked_bundle import CheckedBundle
    from purify_edge.check.page.content import document_of
    from purify_edge.document.terminal import print_document
    from purify_export.export import export_run
    from purify_toolkit.runs.pretrained import open_run

    folder = open_run(run)
    asked: dict[Precision, bool] = {"fp16": fp16, "bf16": bf16, "int8": int8}
    bundle, report = export_run(
        folder,
        out or Path("bundles") / folder.path.resolve().name,
        precisions=("fp32", *(name for name, wanted in asked.items() if wanted)),
        force=force,
        data=data,
        size=size,
        max_accuracy_drop=max_accuracy_drop,
        targets=None if targets is None else [name.strip() for name in targets.split(",")],
        options=for_builders,
        sign=sign,
        tell=lambda text: click.echo(f"  {text}", err=True),
    )
    if as_json:
        click.echo(encode_report(report), nl=False)
    else:
        print_document(document_of(report, CheckedBundle(bundle.manifest)))
    click.echo(f"bundle: {bundle.path}, report: {bundle.path / 'report.html'}", err=True)
    if not report.passed:
        raise click.exceptions.Exit(1)
