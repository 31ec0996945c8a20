"""The benchmark's command: `python -m lab.speed BUNDLE`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from purify_edge.bench.cli import soak_option
from purify_edge.shell.command import Command
from purify_edge.shell.options import Decorator, Number, option_group

if TYPE_CHECKING:
    from lab.speed.bars import Bench


def timing_options(batches: str, budget_s: float) -> Decorator:
    """Return `--batch`, `--rounds`, `--budget` and `--json`, with the defaults of the first and the third."""
    return option_group(
        click.option(
            "--batch", "batches", multiple=True, type=click.IntRange(min=1), help=f"May be repeated; default {batches}."
        ),
        click.option(
            "--rounds", default=60, show_default=True, type=click.IntRange(min=3), help="At most, for each batch."
        ),
        click.option(
            "--budget",
            "budget_s",
            default=budget_s,
            show_default=True,
            type=Number(min=0),
            metavar="SECONDS",
            help="After which no other round begins, for each batch.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    )


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--engine", default="auto", show_default=True, help="Of the pipeline.")
@click.option("--precision", default="fp32", show_default=True, help="Of the models.")
@timing_options("1, 8, 64, 256", budget_s=20.0)
@click.option("--run", metavar="RUN", help="Time PyTorch too, on this run or pair that ships: fashion-mnist, say.")
@click.option("--process/--no-process", default=True, help="Measure cold start and memory, in processes of their own.")
@soak_option
@click.option("--busy", is_flag=True, help="Keep one core busy meanwhile, by another process.")
@click.version_option(package_name="purify-edge")
def main(bundle: Path, batches: tuple[int, ...], as_json: bool, **options: Any) -> None:
    """Time BUNDLE's pipeline, from uint8 images to labels, beside its engines alone and by hand; PyTorch with --run.

    All take turns in one process, round by round; ratios are medians of the rounds' ratios. Exit code 1 when a bar that
    was measured does not hold.
    """
    from lab.speed.run import BATCHES, bench

    found = bench(bundle, batches=sorted(set(batches)) or BATCHES, tell=tell, **options)
    show(found, as_json)
    if any(bar.passed is False for bar in found.bars):
        raise click.exceptions.Exit(1)


def tell(text: str) -> None:
    """Tell what is being done, on standard error."""
    click.echo(f"  {text}", err=True)


def show(found: "Bench", as_json: bool) -> None:
    """Print a benchmark, as JSON or as tables."""
    from lab.speed.bars import encode_bench
    from lab.speed.document import document_of
    from purify_edge.document.terminal import print_document

    if as_json:
        click.echo(encode_bench(found), nl=False)
    else:
        print_document(document_of(found))


if __name__ == "__main__":
    main()
