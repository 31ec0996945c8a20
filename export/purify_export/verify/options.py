"""How much to verify, and the command line's options for it."""

from dataclasses import dataclass

import click

from purify_edge.shell.options import option_object

COUNT = click.IntRange(min=0)


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How much to verify; each number is of the first test images.

    Attributes:
        limit: clean and noisy images.
        attack_limit: images attacked with gradients, on the classifier alone and on the pipeline; 0 leaves these out.
        square_limit: images attacked by querying the engine; 0 leaves this out.
        queries: of the engine, an image at most.
    """

    limit: int = 1000
    attack_limit: int = 256
    square_limit: int = 100
    queries: int = 500


amount_options = option_object(
    "amounts",
    Amounts,
    click.option(
        "--limit", default=Amounts.limit, show_default=True, type=click.IntRange(min=1), help="Clean and noisy images."
    ),
    click.option(
        "--attack-limit",
        default=Amounts.attack_limit,
        show_default=True,
        type=COUNT,
        help="Images attacked with gradients.",
    ),
    click.option(
        "--square-limit",
        default=Amounts.square_limit,
        show_default=True,
        type=COUNT,
        help="Images attacked on the engine itself.",
    ),
    click.option(
        "--square-queries",
        "queries",
        default=Amounts.queries,
        show_default=True,
        type=click.IntRange(min=1),
        help="Queries an image, at most.",
    ),
)
"""Options that give the command `Amounts`, as `amounts`."""
