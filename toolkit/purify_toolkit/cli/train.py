"""purify-train: classifier, two teachers and student, from a recipe to a run folder."""

from pathlib import Path

import click

from purify_toolkit.cli.command import MAX_SEED, Command


@click.command(cls=Command)
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default runs/RECIPE.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder that holds the dataset; default: cache, download or Debian's.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, MAX_SEED), help="Of every random choice.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--limit", type=click.IntRange(min=1), help="Use only so many images of each part: a quick trial.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--json", "as_json", is_flag=True, help="Print the evaluation as JSON.")
@click.version_option(package_name="purify-edge")
def main(
    recipe: str,
    out: Path | None,
    data: Path | None,
    seed: int,
    device: str,
    limit: int | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Train the purifier of RECIPE: a shipped recipe's name, or the path of a .toml file.

    Progress goes to standard error, the final evaluation to standard output. After an interruption the
    same command with --resume goes on from the last full epoch.
    """
    click.echo("importing PyTorch", err=True)
    from purify_toolkit.cli.progress import RichProgress
    from purify_toolkit.cli.table import print_rows
    from purify_toolkit.recipe import find_recipe, read_recipe
    from purify_toolkit.train import Request, train

    path = find_recipe(recipe)
    request = Request(
        recipe_name=path.stem,
        recipe_text=read_recipe(path),
        out=out or Path("runs") / path.stem,
        data=data,
        seed=seed,
        limit=limit,
        device=device,
        resume=resume,
    )
    try:
        with RichProgress() as progress:
            rows = train(request, progress)
    except KeyboardInterrupt:
        click.echo("\ninterrupted; the same command with --resume goes on from the last full epoch", err=True)
        raise click.exceptions.Exit(130) from None
    print_rows(rows, as_json=as_json)
    click.echo(f"run folder: {request.out}", err=True)
