"""purify-doctor: what this machine has, what is missing, what to do about it."""

import click

from purify_runtime.cli.command import Command


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print the diagnosis as JSON.")
@click.version_option(package_name="purify-edge")
def main(as_json: bool) -> None:
    """Tell which engines work on this machine, what is missing for others, and the command that comes next.

    Exit code 0 when at least one engine works, 1 when none does. Changes nothing.
    """
    from purify_runtime.cli.diagnosis import print_diagnosis, progress
    from purify_runtime.doctor import examine
    from purify_runtime.doctor.host import Host

    with progress() as tell:
        diagnosis = examine(Host(), tell=tell)
    if as_json:
        click.echo(diagnosis.as_json())
    else:
        print_diagnosis(diagnosis)
    if not diagnosis.works:
        raise click.exceptions.Exit(1)
