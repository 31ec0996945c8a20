"""Options that give a command one object."""

from dataclasses import dataclass
from typing import Any

import click
import pytest
from click.testing import CliRunner

from purify_edge.shell.options import option_object


@dataclass(frozen=True)
class Size:
    """How large."""

    width: int
    height: int


@click.command()
@click.argument("name")
@option_object("size", Size, click.option("--width", type=int, default=2), click.option("--height", type=int))
@click.option("--dry", is_flag=True)
def command(name: str, size: Size, **others: Any) -> None:
    """Print what came."""
    click.echo(f"{name} {size} {others}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a", "--height", "3"], "a Size(width=2, height=3) {'dry': False}"),
        (["b", "--dry", "--height", "1", "--width", "5"], "b Size(width=5, height=1) {'dry': True}"),
    ],
)
def test_a_command_is_given_one_object_instead_of_the_values(arguments: list[str], expected: str) -> None:
    assert CliRunner().invoke(command, arguments).output.strip() == expected


def test_its_help_tells_of_every_option_in_its_order() -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    assert -1 < text.index("--width") < text.index("--height") < text.index("--dry")
    assert "Print what came." in text
