"""Options that training and evaluation share."""

from pathlib import Path
from typing import get_args

import click

from purify_edge.bundle.manifest import Interpolation, Resizing
from purify_edge.shell.options import Decorator, Number, option_group

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


def _levels(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Return red, green and blue from `114` or `124,116,104`."""
    if value is None:
        return None
    levels = value.split(",")
    if len(levels) not in (1, 3) or not all(level.isdecimal() and int(level) < 256 for level in levels):
        raise click.BadParameter(f"expected a level from 0 to 255, or three with commas between, got {value!r}")
    return tuple(int(level) for level in (levels * 3)[:3])


PICTURE_OPTIONS = ("resize", "crop", "interpolation", "antialias", "fill")
picture_options = option_group(
    click.option(
        "--resize",
        type=click.Choice(get_args(Resizing)),
        help="How pictures get the size: stretched (default), scaled and cropped, or scaled and padded.",
    ),
    click.option(
        "--crop",
        type=Number(0.01, 1),
        help="The share of the scaled picture's sides that is kept: 0.875, say; default 1.",
    ),
    click.option("--interpolation", type=click.Choice(get_args(Interpolation)), help="Default bilinear."),
    click.option(
        "--antialias/--no-antialias", default=None, help="Average where a picture shrinks, as Pillow does; default yes."
    ),
    click.option(
        "--fill",
        callback=_levels,
        metavar="LEVEL",
        help="Padding of a letterbox: 0 to 255, or R,G,B; default 0.",
    ),
)
"""How pictures become the networks' input; `purify_toolkit.runs.pictures.PictureFlags` has the names."""


def existing_options(*, resume: str, force: str) -> Decorator:
    """Return `--resume` and `--force`, with their help: what to do with files that are there. Without, refuse them."""
    return option_group(
        click.option("--resume", is_flag=True, help=resume), click.option("--force", is_flag=True, help=force)
    )


def check_existing(resume: bool, force: bool) -> None:
    """Refuse `--resume` together with `--force`."""
    if resume and force:
        raise click.UsageError("--resume goes on with what is there, --force replaces it: give one of the two")
