"""purify-eval: accuracy of a run on test images, clean and under attack."""

from pathlib import Path

import click

from purify_toolkit.cli.command import MAX_SEED, Command


@click.command(cls=Command)
@click.argument("run", required=False)
@click.option("--data", type=click.Path(path_type=Path), help="Folder that holds the dataset; see purify-train.")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), help="Of the attacks' random starts; default the run's.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first so many test images.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.version_option(package_name="purify-edge")
def main(run: str | None, data: Path | None, seed: int | None, device: str, limit: int | None, as_json: bool) -> None:
    """Evaluate RUN: a folder that purify-train wrote, or the name of a pair that ships; default fashion-mnist.

    Rows: clean; grey-box, the attacker knows the classifier only; white-box, the attacker differentiates
    through purifier and classifier. Each with n and a 95% interval.
    """
    click.echo("importing PyTorch", err=True)
    from purify_toolkit.cli.progress import RichProgress
    from purify_toolkit.cli.table import print_rows
    from purify_toolkit.pretrained import open_run
    from purify_toolkit.train import choose_device, evaluate_run, load_data_of

    folder = open_run(run)
    chosen = choose_device(device)
    test = load_data_of(folder, data).test
    with RichProgress() as progress:
        rows = evaluate_run(
            folder, test[:limit], seed=folder.info["seed"] if seed is None else seed, device=chosen, progress=progress
        )
    print_rows(rows, as_json=as_json)
