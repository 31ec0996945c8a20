"""Options that several commands share."""

import functools
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
MAX_SEED = 2**63 - 1  # torch's generators take no more
MAX_SIDE = 4096  # of images, in pixels


def image_size(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Return height and width of images, in pixels, from an option's `32x48`."""
    if text is None:
        return None
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and 1 <= int(side) <= MAX_SIDE for side in sides):
        raise click.BadParameter(f"expected HEIGHTxWIDTH, each from 1 to {MAX_SIDE}, like 64x64, got {text!r}")
    return int(sides[0]), int(sides[1])


class Number(click.FloatRange):
    """A number in a range; `nan`, which compares as lying in every range, is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.FloatRange`."""
        number = super().convert(value, param, ctx)
        if isnan(number):
            self.fail(f"{value} is no number.", param, ctx)
        return number


def option_group(*options: Decorator) -> Decorator:
    """Return one decorator that adds all of the options, in their order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def option_object(name: str, make: Callable[..., Any], *options: Decorator) -> Decorator:
    """Return one decorator that adds the options and gives the command one object instead of their values.

    Args:
        name: the command's parameter for the object.
        make: called with the options' values by their names, returns the object.
        options: in their order.
    """
    added = option_group(*options)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        def with_object(**values: Any) -> Any:
            return command(**{key: values.pop(key) for key in [*values] if key not in ours}, **{name: make(**values)})

        ours = {option.name for option in getattr(added(lambda: None), "__click_params__", [])}
        functools.update_wrapper(with_object, command)
        return added(with_object)

    return decorate


verify_option = click.option(
    "--verify",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Public key (PEM) whose owner must have signed the bundle; its engines are then trusted.",
)
