"""purify-bench: engines, precisions and batches of this device side by side."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from purify_edge.engines.options import engine_options, policy_from
from purify_edge.shell.command import Command

CLIENTS = (1, 2, 4, 8, 16, 32, 64)

if TYPE_CHECKING:
    from purify_edge.bench.bench import Benchmark
    from purify_edge.document.model import Document

soak_option = click.option(
    "--soak",
    default=0,
    metavar="CALLS",
    type=click.IntRange(min=0),
    help="Calls over which memory may not grow.",
)


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--engine", default="all", show_default=True, help="all that work here, auto, or one by name.")
@engine_options
@click.option("--precision", "precisions", multiple=True, help="Time only this precision; may be repeated.")
@click.option(
    "--batch", "batches", multiple=True, type=click.IntRange(min=1), help="May be repeated; default 1, 8 and 64."
)
@click.option("--rounds", default=100, show_default=True, type=click.IntRange(min=1), help="Timed calls, at most.")
@soak_option
@click.option("--server", metavar="URL", help="Time a server instead: grpc://HOST:PORT/MODEL, or http://.")
@click.option(
    "--clients",
    multiple=True,
    type=click.IntRange(min=1),
    help="With --server, how many ask at once; may be repeated; default 1, 2, 4 ... 64.",
)
@click.option("--allow-failed", is_flag=True, help="Accept a bundle that failed at its export.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.version_option(package_name="purify-edge")
def main(
    bundle: Path,
    engine: str,
    no_build: bool,
    trust_engines: bool,
    verify: Path | None,
    precisions: tuple[str, ...],
    batches: tuple[int, ...],
    rounds: int,
    soak: int,
    server: str | None,
    clients: tuple[int, ...],
    allow_failed: bool,
    as_json: bool,
) -> None:
    """Time BUNDLE's purifier and classifier, chained and as one graph, in every engine and precision that works here.

    They take turns, round by round. With --soak, the exit code is 1 if an answer changes.

    With --server, each client sends golden images one at a time to a server that runs BUNDLE. The exit code is 1 if a
    request fails, or if more answers differ than bfloat16 explains.
    """
    if server:
        if engine != "all" or precisions or batches or soak:
            raise click.UsageError("--server times what the server runs: no --engine, --precision, --batch or --soak")
        bench_server(bundle, server, clients or CLIENTS, rounds, verify, allow_failed=allow_failed, as_json=as_json)
        return
    if clients:
        raise click.UsageError("--clients are those of --server")
    import msgspec

    from purify_edge.bench.bench import BATCHES, benchmark
    from purify_edge.bundle.reader import Bundle
    from purify_edge.document.terminal import print_document

    opened = Bundle.open(bundle, verify=verify, allow_failed=allow_failed)
    found = benchmark(
        opened,
        engine=engine,
        precisions=precisions,
        batches=sorted(set(batches)) or BATCHES,
        rounds=rounds,
        policy=policy_from(no_build=no_build, trust_engines=trust_engines),
        soak=soak,
        tell=lambda text: click.echo(f"  {text}", err=True),
    )
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
    else:
        print_document(document_of(found, opened.source or str(bundle)))
    if found.soak and found.soak.wrong:
        raise click.exceptions.Exit(1)


def bench_server(
    path: Path,
    url: str,
    clients: tuple[int, ...],
    rounds: int,
    verify: Path | None,
    *,
    allow_failed: bool,
    as_json: bool,
) -> None:
    """Time a server, and end with 1 when a request failed, or too many got another class."""
    import msgspec

    from purify_edge.bundle.reader import Bundle
    from purify_edge.check.server import table_of, time_server
    from purify_edge.document.model import Document, Section
    from purify_edge.document.terminal import print_document

    opened = Bundle.open(path, verify=verify, allow_failed=allow_failed)
    tell = partial(click.echo, err=True)
    rows = time_server(opened, url, clients=sorted(set(clients)), rounds=rounds, tell=lambda text: tell(f"  {text}"))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode({"url": url, "latency": rows}), indent=2))
    else:
        print_document(Document(title=url, sections=(Section("Latency", (table_of(rows),)),)))
    if any(row.is_broken for row in rows):
        raise click.exceptions.Exit(1)


def document_of(found: "Benchmark", title: str) -> "Document":
    """Return a table a size of batch, the fastest first, and what the soak found."""
    from purify_edge.document.model import Bullets, Document, Section, table

    tables = []
    columns = ("engine", "precision", "stage", "p50 ms", "p90 ms", "p99 ms", "images/s", "times the fastest")
    for batch in sorted({row.batch for row in found.latency}):
        rows = sorted((row for row in found.latency if row.batch == batch), key=lambda row: row.p50_ms)
        lines = [
            (
                *(row.engine, row.precision, row.stage),
                *(f"{value:.3f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms)),
                *(f"{row.images_per_s:,.0f}", f"{row.p50_ms / rows[0].p50_ms:.2f}"),
            )
            for row in rows
        ]
        tables.append(table(f"Batch {batch}, {rows[0].n} rounds", columns, lines, text_columns=3))
    facts = [("purify-run takes here", str(found.plan))] if found.plan else []
    facts += [(f"not run: {left.engine} {left.precision}", left.reason) for left in found.not_run]
    if found.soak:
        growth = "" if found.soak.growth_mib is None else f"; memory grew by {found.soak.growth_mib:.1f} MiB"
        facts.append((f"{found.soak.calls:,} predictions", f"{found.soak.wrong} images got another answer{growth}"))
    return Document(title=title, sections=(Section("Latency", (*tables, Bullets(tuple(facts)))),))
