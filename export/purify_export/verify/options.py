"""How much to verify, and the command line's options for it."""

from dataclasses import dataclass

import click

from purify_edge.shell.options import Decorator, option_object


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How much to verify; each number is of the first test images."""

    limit: int = 1000  # clean and noisy images
    # images attacked with gradients, on the classifier alone and on the pipeline; 0 leaves these out
    attack_limit: int = 256
    square_limit: int = 100  # images attacked by querying the engine; 0 leaves this out
    queries: int = 500  # of the engine, an image at most


def _count(flag: str, name: str, default: int, least: int, about: str) -> Decorator:
    return click.option(flag, name, default=default, show_default=True, type=click.IntRange(min=least), help=about)


amount_options = option_object(
    "amounts",
    Amounts,
    _count("--limit", "limit", Amounts.limit, 1, "Clean and noisy images."),
    _count("--attack-limit", "attack_limit", Amounts.attack_limit, 0, "Images attacked with gradients."),
    _count("--square-limit", "square_limit", Amounts.square_limit, 0, "Images attacked on the engine itself."),
    _count("--square-queries", "queries", Amounts.queries, 1, "Queries an image, at most."),
)
"""Options that give the command `Amounts`, as `amounts`."""
