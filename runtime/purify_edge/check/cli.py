"""purify-check: parity and latency of a bundle on this device, from its golden set."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from purify_edge.check.options import limit_options
from purify_edge.engines.options import engine_options, policy_from
from purify_edge.shell.command import Command
from purify_edge.shell.options import Number

if TYPE_CHECKING:
    from purify_edge.bundle.reader import Bundle
    from purify_edge.check.limits import Limits


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--engine", default="auto", show_default=True, help="auto, what purify-run takes; all that work here; or a name."
)
@engine_options
@click.option(
    "--server", metavar="URL", help="Check a server that runs the bundle: grpc://HOST:PORT/MODEL, or http://."
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    help="Check this precision, or all; may be repeated; default as purify-run.",
)
@limit_options
@click.option(
    "--max-flagged-change",
    default=0.02,
    show_default=True,
    type=Number(0, 1),
    help="How far the share of images called suspicious, or of those spared, may lie from PyTorch's.",
)
@click.option(
    "--max-latency-ms",
    type=Number(min=0, min_open=True),
    help="Largest median latency of the pipeline at batch 1; default no limit.",
)
@click.option(
    "--rounds", default=100, show_default=True, type=click.IntRange(min=0), help="Timed calls; 0 for no timing."
)
@click.option("--allow-failed", is_flag=True, help="Accept a bundle that failed at its export.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the report to FILE.html, .md or .json too; may be repeated.",
)
@click.option("--force", is_flag=True, help="Overwrite the files of --report where they exist.")
@click.version_option(package_name="purify-edge")
def main(
    bundle: Path,
    engine: str,
    no_build: bool,
    trust_engines: bool,
    server: str | None,
    verify: Path | None,
    precisions: tuple[str, ...],
    min_agreement: float | None,
    max_accuracy_drop: float,
    max_error: float | None,
    max_flagged_change: float,
    max_latency_ms: float | None,
    rounds: int,
    allow_failed: bool,
    as_json: bool,
    reports: tuple[Path, ...],
    force: bool,
) -> None:
    """Compare BUNDLE's models on this device with the PyTorch reference in its golden set, and time them.

    Needs no torch. Exit code 1 when a limit is broken.
    """
    from purify_edge.bundle.export_report import exported, with_export
    from purify_edge.bundle.reader import Bundle
    from purify_edge.bundle.report import encode_report
    from purify_edge.check.check import check_with_examples
    from purify_edge.check.limits import Limits
    from purify_edge.check.page.content import document_of
    from purify_edge.check.page.files import require_writable, write_report
    from purify_edge.document.terminal import print_document

    if server and (engine != "auto" or precisions or reports):
        raise click.UsageError("--server checks what the server runs: no --engine, --precision or --report beside it")
    for path in reports:
        require_writable(path, force=force)
    opened = Bundle.open(bundle, verify=verify, allow_failed=allow_failed)
    policy = policy_from(no_build=no_build, trust_engines=trust_engines)
    limits = Limits(
        min_agreement=min_agreement,
        max_accuracy_drop=max_accuracy_drop,
        max_error=max_error,
        max_flagged_change=max_flagged_change,
        max_latency_ms=max_latency_ms,
    )
    if server:
        _check_server(opened, server, limits, rounds, as_json)
        return
    told = exported(opened)
    report, about = check_with_examples(
        opened,
        engine=engine,
        precisions=precisions,
        limits=limits,
        rounds=rounds,
        policy=policy,
        tell=lambda text: click.echo(f"  {text}", err=True),
    )
    report = with_export(report, told)
    for path in reports:
        write_report(path, report, about, force=force)
    if as_json:
        click.echo(encode_report(report), nl=False)
    else:
        print_document(document_of(report, about))
    if not report.passed:
        raise click.exceptions.Exit(1)


def _check_server(bundle: "Bundle", url: str, limits: "Limits", rounds: int, as_json: bool) -> None:
    from msgspec import json

    from purify_edge.check.server import check_server, document_of
    from purify_edge.document.terminal import print_document

    def tell(text: str) -> None:
        click.echo(f"  {text}", err=True)

    report = check_server(bundle, url, limits=limits, rounds=rounds, tell=tell)
    if as_json:
        click.echo(json.format(json.encode(report), indent=2))
    else:
        print_document(document_of(report))
    if not report.passed:
        raise click.exceptions.Exit(1)
