"""What a training's progress prints where there is no terminal."""

import pytest

from helpers.clock import Clock
from purify_edge.shell import stages
from purify_edge.shell.stages import RichProgress


def test_each_epoch_is_a_line_with_what_was_said_last_and_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(stages, "time", clock)
    with RichProgress() as progress:
        for epoch in range(3):
            progress.epoch("normal_teacher", epoch, 3, 10)
            progress.advance(10, "reconstruction 0.5")
            clock.sleep(40)
            progress.advance(0, "reconstruction 0.4  validation clean 91.0%")
        progress.epoch("evaluation", 0, 1, 10)
        progress.advance(10, "none")
    line = "normal teacher: epoch {}/3  reconstruction 0.4  validation clean 91.0%"
    assert capsys.readouterr().err.splitlines() == [
        "normal teacher, 3 epochs",
        f"{line.format(1)}  0:01:20 left",
        f"{line.format(2)}  0:00:40 left",
        line.format(3),
        "evaluation",
        "evaluation: epoch 1/1  none",
    ]
