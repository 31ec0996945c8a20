"""purify-ray: purify and classify many images with Ray Data, on one machine or many."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from purify_edge.engines.options import engine_options, policy_from
from purify_edge.shell.command import Command
from purify_edge.shell.options import Number

if TYPE_CHECKING:
    from purify_edge.bulk.run import BulkSummary

FOLDER = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)


@click.command(cls=Command)
@click.argument("bundle", type=FOLDER)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.argument("out", type=FOLDER)
@click.option("--engine", default="auto", show_default=True, help="As in purify-run.")
@engine_options
@click.option("--precision", default="auto", show_default=True, help="As in purify-run; the same for all workers.")
@click.option("--spare-clean", is_flag=True, help="As in purify-run; adds a column spared.")
@click.option("--purified", is_flag=True, help="Add a column with the purified images, as PNG.")
@click.option("--address", help="Address of a Ray cluster, HOST:6379 or auto; default: start Ray on this machine.")
@click.option("--workers", type=COUNT, help="Processes with a pipeline each; default one for each machine or GPU.")
@click.option("--gpus", type=Number(min=0), help="GPUs of each worker, for example 0.25; default 1 if there are any.")
@click.option("--batch", default=64, show_default=True, type=COUNT, help="Images that run together.")
@click.option("--force", is_flag=True, help="Drop the results in OUT, and begin anew.")
@click.option("--allow-failed", is_flag=True, help="Accept a bundle that failed at its export.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.version_option(package_name="purify-edge")
def main(
    bundle: Path,
    inputs: tuple[str, ...],
    out: Path,
    no_build: bool,
    trust_engines: bool,
    workers: int | None,
    gpus: float | None,
    batch: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Purify and classify each INPUT with BUNDLE; write Parquet files to the folder OUT, a row an image.

    An INPUT is an image, a folder (with all below it) or a quoted glob. Every machine of a cluster has to see BUNDLE
    and the images by the same paths; OUT is written by this process alone.

    After a kill the same command continues with the images that are not in OUT. An image that cannot be read gets a row
    with an error; the exit code is then 1, or 2 if none could be read.
    """
    import msgspec

    from purify_edge.bulk.cluster import Workers
    from purify_edge.bulk.run import BulkJob, run

    policy = policy_from(no_build=no_build, trust_engines=trust_engines)
    asked = Workers(count=workers, gpus=gpus, batch=batch)
    summary = run(BulkJob(bundle=bundle, inputs=inputs, out=out, policy=policy, workers=asked, **options))
    click.echo(f"  {_in_words(summary)}", err=True)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(summary), indent=2))
    raise click.exceptions.Exit(summary.exit_code)


def _in_words(summary: "BulkSummary") -> str:
    from purify_edge.shell.progress import images

    done = summary.done_before
    parts = [f"{images(summary.images)} in {summary.seconds:.1f} s, {summary.images_per_s:,.0f} images/s"]
    parts += [f"{summary.suspicious:,} suspicious"] if summary.suspicious else []
    parts += [f"{summary.errors:,} without an answer"] if summary.errors else []
    parts += [f"{done:,} {'was' if done == 1 else 'were'} done before"] if done else []
    parts += [f"{summary.repeated:,} named more than once"] if summary.repeated else []
    parts += [f"passed over {summary.passed}"] if summary.passed else []
    return "; ".join(parts)
