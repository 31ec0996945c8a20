"""Progress that nobody sees, and progress that presses Ctrl-C."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from purify_toolkit.train.request import Request


class Silent:
    """Takes what a training or an evaluation tells of itself, and says nothing."""

    def expect(self, seconds: Mapping[str, float]) -> None:
        pass

    def epoch(self, stage: str, epoch: int, epochs: int, units: int) -> None:
        pass

    def advance(self, units: int, text: str) -> None:
        pass


class Interrupting(Silent):
    """Presses Ctrl-C after so many calls of `advance`, or else when the evaluation begins; notes the stages' epochs."""

    def __init__(self, after: int = 0) -> None:
        self.left = after
        self.stages: list[str] = []

    def epoch(self, stage: str, epoch: int, epochs: int, units: int) -> None:
        self.stages.append(stage)
        if stage == "evaluation":
            raise KeyboardInterrupt

    def advance(self, units: int, text: str) -> None:
        self.left -= units > 0  # what an epoch says at its end is no work
        if units and self.left == 0:
            raise KeyboardInterrupt


def request_for(out: Path, folder: Path, **changes: object) -> "Request":
    """The request for a small training."""
    from helpers.small_data import RECIPE
    from purify_toolkit.train.request import Request

    values = {"recipe_name": "small", "recipe_text": RECIPE, "out": out, "data": folder} | changes
    return Request(**values)  # type: ignore[arg-type]


def train_only(request: "Request", progress: Interrupting | None = None) -> None:
    """A training up to its evaluation, which takes longer than all stages of a small one."""
    from purify_toolkit.train.train import train

    with pytest.raises(KeyboardInterrupt):
        train(request, progress or Interrupting())
