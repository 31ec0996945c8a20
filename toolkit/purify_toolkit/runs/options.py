"""Options that training and evaluation share."""

from pathlib import Path

import click

from purify_edge.shell.options import Decorator, option_group

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder that holds the dataset; default: cache, download or Debian's.",
)
labels_option = click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="A table (CSV) of the images in --data and their classes: file,label or file,label,split.",
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")


def existing_options(*, resume: str, force: str) -> Decorator:
    """Return `--resume` and `--force`, with their help: what to do with files that are there. Without, refuse them."""
    return option_group(
        click.option("--resume", is_flag=True, help=resume), click.option("--force", is_flag=True, help=force)
    )


def check_existing(resume: bool, force: bool) -> None:
    """Refuse `--resume` together with `--force`."""
    if resume and force:
        raise click.UsageError("--resume goes on with what is there, --force replaces it: give one of the two")
