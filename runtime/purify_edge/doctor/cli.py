"""purify-doctor: what this machine has, what is missing, what to do about it."""

import click

from purify_edge.shell.command import Command


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print the diagnosis as JSON.")
@click.version_option(package_name="purify-edge")
def main(as_json: bool) -> None:
    """Tell which engines work on this machine, what is missing for others, and the command that comes next.

    Exit code 0 when at least one engine works, 1 when none does. Changes nothing.
    """
    from purify_edge.doctor.examine import examine
    from purify_edge.doctor.host import Host
    from purify_edge.doctor.table import print_diagnosis, progress

    with progress() as tell:
        diagnosis = examine(Host(), tell=tell)
    if as_json:
        click.echo(diagnosis.as_json())
    else:
        print_diagnosis(diagnosis)
    if not diagnosis.works:
        raise click.exceptions.Exit(1)
