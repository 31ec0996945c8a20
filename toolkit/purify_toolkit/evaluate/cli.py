"""purify-eval: accuracy of a run on test images, clean and under attack, and whether the figures can be trusted."""

from pathlib import Path

import click

from purify_edge.shell.command import Command
from purify_edge.shell.options import MAX_SEED

Count = click.IntRange(min=1)


@click.command(cls=Command)
@click.argument("run", required=False)
@click.option("--data", type=click.Path(path_type=Path), help="Folder that holds the dataset; see purify-train.")
@click.option("--attacks", default="default", show_default=True, help="Names with commas between; see above.")
@click.option("--limit", type=Count, help="Use only the first so many test images.")
@click.option("--costly-limit", default=1000, show_default=True, type=Count, help="Likewise, for costly attacks.")
@click.option(
    "--curve-limit",
    default=500,
    show_default=True,
    type=click.IntRange(min=0),
    help="Likewise, for the attack at other sizes and with twice the steps; 0 leaves these out.",
)
@click.option(
    "--l2-epsilon",
    type=click.FloatRange(min=0, min_open=True),
    help="Radius for L2 attacks; default 1.5 for grey images of 28 x 28, else 0.5, usual for CIFAR-10.",
)
@click.option("--transfer-from", metavar="RUN", help="Another run, on which transfer attacks are made.")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), help="Of the attacks' random choices; default the run's.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the report; default RUN/evaluation, or evaluations/NAME for a pair that ships.",
)
@click.option("--fresh", is_flag=True, help="Measure again what has been measured.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, the content of evaluation.json.")
@click.version_option(package_name="purify-edge")
def main(
    run: str | None,
    data: Path | None,
    attacks: str,
    limit: int | None,
    costly_limit: int,
    curve_limit: int,
    l2_epsilon: float | None,
    transfer_from: str | None,
    seed: int | None,
    device: str,
    out: Path | None,
    fresh: bool,
    as_json: bool,
) -> None:
    """Evaluate RUN: a folder that purify-train wrote, or the name of a pair that ships; default fashion-mnist.

    Rows, each with n and a 95% interval, by threat: clean, noise, corruptions, spatial; grey-box, the attacker
    knows the classifier only; transfer, he has another purifier and classifier; query, he sees answers only;
    white-box, he differentiates through purifier and classifier; bpda, with the identity for the purifier's gradient.

    --attacks takes threats (white-box), attacks (pgd, under every threat that has it), single rows
    (white-box:autoattack), `default` and `all`. The default is clean, noise, FGSM and PGD grey-box and white-box,
    and BPDA; all others run when named. A wrong name lists all.

    Each attack is kept when it is done, and the same command goes on after an interruption. Sanity gates doubt
    the figures: where one fails, the exit code is 1.
    """
    click.echo("importing PyTorch", err=True)
    from purify_edge.shell.stages import RichProgress
    from purify_toolkit.device.choice import choose_device
    from purify_toolkit.evaluate.assess import Question, assess, default_out
    from purify_toolkit.evaluate.tables import print_report
    from purify_toolkit.evaluate.threats import select
    from purify_toolkit.runs.datasets import load_data_of
    from purify_toolkit.runs.pretrained import open_run

    folder = open_run(run)
    question = Question(
        attacks=attacks,
        limit=limit,
        costly_limit=costly_limit,
        curve_limit=curve_limit,
        l2_epsilon=l2_epsilon,
        transfer_from=open_run(transfer_from) if transfer_from else None,
        seed=folder.info["seed"] if seed is None else seed,
        fresh=fresh,
    )
    select(attacks, transfer=transfer_from is not None)  # a wrong name is told before the data are read
    chosen, test = choose_device(device), load_data_of(folder, data).test
    out = out or default_out(folder)
    try:
        with RichProgress(unit="attack") as progress:
            report = assess(folder, test, question, out=out, device=chosen, progress=progress)
    except KeyboardInterrupt:
        click.echo("\ninterrupted; the same command goes on with the attack that was under way", err=True)
        raise click.exceptions.Exit(130) from None
    print_report(report, as_json=as_json)
    click.echo(f"report, pictures and rows: {out}", err=True)
    if not report.passed:
        raise click.exceptions.Exit(1)
