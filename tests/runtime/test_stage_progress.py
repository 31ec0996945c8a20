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


def test_the_time_of_later_stages_goes_by_how_long_this_one_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(stages, "time", clock)
    with RichProgress() as progress:
        progress.expect({"student": 60.0, "evaluation": 15.0, "more": 15.0})
        for epoch in range(3):
            progress.epoch("student", epoch, 3, 10)
            clock.sleep(40)  # twice as long as expected
            progress.advance(10, "loss")
        progress.epoch("evaluation", 0, 1, 10)
        progress.advance(10, "none")
    assert capsys.readouterr().err.splitlines() == [
        "student, 3 epochs",
        "student: epoch 1/3  loss  0:01:20 left, 0:02:20 of all",
        "student: epoch 2/3  loss  0:00:40 left, 0:01:40 of all",
        "student: epoch 3/3  loss",
        "evaluation",
        "evaluation: epoch 1/1  none",
    ]
