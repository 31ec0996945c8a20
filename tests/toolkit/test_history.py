import json
from pathlib import Path
from typing import Any

import pytest

from helpers.curves import Points, points
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.history import EVENTS, History, read_metrics


def line(epoch: int, stage: str = "student") -> dict[str, Any]:
    return {
        "stage": stage,
        "epoch": epoch,
        "losses": {"imitation": 1 / (epoch + 1), "guidance": 0.5},
        "validation": {"accuracy_clean": 0.25 * epoch},
        "learning_rate": 1e-3,
        "seconds": 1.0,
    }


def expected_points(run: RunFolder, stage: str) -> Points:
    found: Points = {}
    for entry in (entry for entry in read_metrics(run) if entry["stage"] == stage):
        values = {
            f"{group}/{name}": value for group in ("losses", "validation") for name, value in entry[group].items()
        }
        for tag, value in (values | {"learning_rate": entry["learning_rate"]}).items():
            found.setdefault(tag, []).append((entry["epoch"], pytest.approx(value, rel=1e-6)))
    return found


def test_tensorboard_reads_what_a_training_wrote(trained: RunFolder) -> None:
    assert sorted(path.name for path in (trained.path / EVENTS).iterdir()) == sorted(trained.stages)
    for stage in trained.stages:
        assert points(trained, stage) == expected_points(trained, stage)
    found = points(trained, "student")
    assert {"losses/imitation", "losses/guidance", "validation/accuracy_adversarial", "learning_rate"} <= found.keys()
    assert [epoch for epoch, _ in found["learning_rate"]] == [0, 1, 2]


def test_an_epoch_can_be_read_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with History(run, "student", epochs_done=0) as history:
        history.append(line(0))
        assert points(run, "student")["losses/imitation"] == [(0, 1.0)]
        assert read_metrics(run) == [line(0)]


@pytest.mark.parametrize("epochs_done", [0, 1, 2])
def test_after_an_interruption_no_epoch_is_there_twice(tmp_path: Path, epochs_done: int) -> None:
    run = RunFolder(tmp_path)
    with History(run, "classifier", epochs_done=0) as history:
        history.append(line(0, "classifier"))
    history = History(run, "student", epochs_done=0)  # never closed, as when the process is killed
    for epoch in (0, 1):
        history.append(line(epoch))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line(2))[:30])
    with History(run, "student", epochs_done=epochs_done) as history:
        for epoch in range(epochs_done, 3):
            history.append(line(epoch))
    assert read_metrics(run) == [line(0, "classifier"), line(0), line(1), line(2)]
    for stage in ("classifier", "student"):
        assert points(run, stage) == expected_points(run, stage)
