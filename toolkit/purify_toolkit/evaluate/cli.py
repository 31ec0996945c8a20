"""purify-eval: accuracy of a run on test images, clean and under attack, and whether the figures can be trusted."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from purify_edge.errors import InputError
from purify_edge.shell.command import Command
from purify_edge.shell.options import MAX_SEED, option_object
from purify_toolkit.runs.options import check_existing, data_option, device_option, existing_options, labels_option

if TYPE_CHECKING:
    from purify_toolkit.evaluate.selection import EvaluationRequest

Count = click.IntRange(min=1)


def _question(transfer_from: str | None, resume: bool, force: bool, **others: Any) -> "EvaluationRequest":
    """Return the question that the options make."""
    check_existing(resume, force)
    click.echo("importing PyTorch", err=True)
    from purify_toolkit.evaluate.selection import EvaluationRequest, select
    from purify_toolkit.runs.pretrained import open_run

    other = None if transfer_from is None else open_run(transfer_from)
    question = EvaluationRequest(transfer_from=other, resume=resume, force=force, **others)
    select(question.attacks, transfer=other is not None)  # a wrong name is reported before the data are read
    return question


@click.command(cls=Command)
@click.argument("run", required=False)
@option_object(
    "question",
    _question,
    click.option("--attacks", default="default", show_default=True, help="Names with commas between; see above."),
    click.option("--limit", type=Count, help="Use only this many test images, from the first on."),
    click.option("--costly-limit", default=1000, show_default=True, type=Count, help="Likewise, for costly attacks."),
    click.option(
        "--curve-limit",
        default=500,
        show_default=True,
        type=click.IntRange(min=0),
        help="The same limit for the attack at other sizes and with twice the steps; 0 leaves these out.",
    ),
    click.option(
        "--l2-epsilon",
        type=click.FloatRange(min=0, min_open=True),
        help="Radius for L2 attacks; default 1.5 for grey images of 28 x 28, else 0.5, usual for CIFAR-10.",
    ),
    click.option(
        "--l1-epsilon",
        type=click.FloatRange(min=0, min_open=True),
        help="Radius for L1 attacks; default 10 for grey images of 28 x 28, else 12, usual for CIFAR-10.",
    ),
    click.option("--transfer-from", metavar="RUN", help="Another run, whose networks transfer attacks are made on."),
    click.option(
        "--spare-clean",
        is_flag=True,
        help="Judge the rule of `purify-run --spare-clean` too; validation images set its threshold.",
    ),
    click.option("--seed", type=click.IntRange(0, MAX_SEED), help="Of the attacks' random choices; default the run's."),
    existing_options(
        resume="Continue an existing evaluation, interrupted or of other attacks.",
        force="Replace an existing evaluation: measure all again.",
    ),
)
@data_option
@labels_option
@device_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the report; default RUN/evaluation, or evaluations/NAME for a pair that ships.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, the content of evaluation.json.")
@click.version_option(package_name="purify-edge")
def main(
    run: str | None,
    question: "EvaluationRequest",
    data: Path | None,
    labels: Path | None,
    device: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Evaluate RUN: a folder that purify-train wrote, or the name of a pair that ships; default fashion-mnist.

    Rows, each with n and a 95% interval, by threat: clean, noise, corruptions, spatial, colour; grey-box, the attacker
    knows the classifier only; barely, the same, and stops as soon as the classifier errs; printed, grey-box with images
    that are printed and photographed; transfer, the attacker has another purifier and classifier; query, sees answers
    only; white-box, differentiates through purifier and classifier; bpda, white-box with the identity in place of the
    purifier's gradient.

    --attacks takes threats (white-box), attacks (pgd, under every threat that has it), single rows
    (white-box:autoattack), `default` and `all`. The default is clean, noise, FGSM and PGD grey-box and white-box,
    and BPDA; all others run when named. A wrong name lists all.

    Each finished attack is kept. The same command with --resume continues after an interruption, or with other
    attacks. Sanity gates check the figures: if one fails, or --spare-clean does harm, the exit code is 1.
    """
    from purify_edge.shell.stages import RichProgress
    from purify_toolkit.device.choice import choose_device
    from purify_toolkit.evaluate.assess import assess, default_out
    from purify_toolkit.evaluate.tables import print_report
    from purify_toolkit.runs.data import load_data_of
    from purify_toolkit.runs.pretrained import open_run

    folder = open_run(run)
    chosen, out = choose_device(device), out or default_out(folder)
    _check_out(out, question)
    images = load_data_of(folder, data, labels=labels, device=device)
    try:
        with RichProgress(unit="attack") as progress:
            report = assess(
                folder,
                images.test,
                question,
                out=out,
                device=chosen,
                progress=progress,
                validation=images.validation,
            )
    except KeyboardInterrupt:
        click.echo("\ninterrupted; the same command with --resume goes on with the attack under way", err=True)
        raise click.exceptions.Exit(130) from None
    print_report(report, as_json=as_json)
    click.echo(f"report, pictures and rows: {out}", err=True)
    if report.harm:
        click.echo(report.harm, err=True)
    if not report.passed or report.harm:
        raise click.exceptions.Exit(1)


def _check_out(out: Path, question: "EvaluationRequest") -> None:
    """Refuse a folder that holds an evaluation, unless the user says what to do with it."""
    there = any((out / name).exists() for name in ("evaluation.json", "rows"))
    if there and not (question.resume or question.force):
        raise InputError(
            f"{out} holds an evaluation; --resume goes on with it, --force measures again, --out names another folder"
        )
