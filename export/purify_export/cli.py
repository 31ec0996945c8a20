"""purify-export: a run's purifier and classifier as a checked bundle."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from purify_edge.shell.command import Command
from purify_edge.shell.options import image_size
from purify_export.options import ExportOptions, export_options

if TYPE_CHECKING:
    from purify_edge.bundle.reader import Bundle


@click.command(cls=Command)
@click.argument("run", required=False)
@click.option(
    "--size",
    callback=image_size,
    metavar="HxW",
    help="Size of the images, if the classifier takes others than the run's; default the run's.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The run's dataset, for golden set and calibration; default the images in the run, else as purify-train "
    "finds them.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The bundle's folder; default bundles/NAME.")
@export_options
@click.option("--push", metavar="ORG/NAME", help="Put the bundle on the Hugging Face hub too, unless it broke a limit.")
@click.option("--private", is_flag=True, help="With --push: where the repository is made, only its owners see it.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.version_option(package_name="purify-edge")
def main(
    run: str | None,
    size: tuple[int, int] | None,
    data: Path | None,
    out: Path | None,
    options: ExportOptions,
    push: str | None,
    private: bool,
    as_json: bool,
) -> None:
    """Export RUN: a folder that purify-train wrote, or the name of a pre-trained pair; default fashion-mnist.

    Writes models, golden set, report and manifest, and TensorRT engines where a builder is installed. Exit
    code 1 when a model does not agree with PyTorch: the report then says which, what was tried and where the first
    layer diverges, and the bundle is kept apart, as OUT.failed. --push needs the extra `hub`, and a login by
    `hf auth login` or HF_TOKEN.
    """
    if private and not push:
        raise click.UsageError("--private goes with --push ORG/NAME")
    if push:
        _check_push(push)
    click.echo("importing PyTorch and ONNX", err=True)
    from purify_edge.bundle.report import encode_report
    from purify_edge.check.page.checked_bundle import CheckedBundle
    from purify_edge.check.page.content import document_of
    from purify_edge.document.terminal import print_document
    from purify_export.runs import export_run
    from purify_toolkit.device.memory import keep_freed_memory
    from purify_toolkit.runs.pretrained import licence_of, open_run

    keep_freed_memory()
    folder = open_run(run)
    bundle, report = export_run(
        folder,
        out or Path("bundles") / folder.path.resolve().name,
        options,
        data=data,
        size=size,
        tell=lambda text: click.echo(f"  {text}", err=True),
    )
    if as_json:
        click.echo(encode_report(report), nl=False)
    else:
        print_document(document_of(report, CheckedBundle(bundle.manifest)))
    click.echo(f"bundle: {bundle.path}, report: {bundle.path / 'report.html'}", err=True)
    if not report.passed:
        if push:
            click.echo(f"not pushed to {push}: a limit is broken", err=True)
        raise click.exceptions.Exit(1)
    if push:
        _push(bundle, push, private=private, licence=licence_of(folder))


def _check_push(name: str) -> None:
    from purify_export.publish.push import check_push

    check_push(name)


def _push(bundle: "Bundle", name: str, *, private: bool, licence: str) -> None:
    from purify_export.publish.push import push

    click.echo(f"pushing to {name}", err=True)
    click.echo(f"pushed: {push(bundle, name, private=private, licence=licence)}", err=True)
