"""A long export tells how far it is, from inside its steps."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch import nn

from helpers.clock import Clock
from helpers.processes import wait_for
from helpers.trained import quadrants
from purify_edge import export as export_pair
from purify_export import progress
from purify_export.progress import counted, silent, stage


def test_a_stage_tells_what_it_is_at_however_long_a_call_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "INTERVAL_S", 0.01)
    told: list[str] = []
    with stage(told.append, "golden set") as note:
        wait_for(lambda: told)
        note("batch 3 of 7")
        clock.sleep(40)
        wait_for(lambda: "golden set: 40 s so far, batch 3 of 7" in told)
    assert told[0] == "golden set: 0 s so far"
    assert told[-1] == "golden set: 40.0 s"
    count = len(told)
    time.sleep(0.05)
    assert len(told) == count


def test_a_stage_that_fails_tells_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL_S", 0.01)
    told: list[str] = []
    with pytest.raises(ValueError, match="no"), stage(told.append, "gate"):
        wait_for(lambda: told)
        raise ValueError("no")
    count = len(told)
    time.sleep(0.05)
    assert len(told) == count
    assert all(line.endswith(" s so far") for line in told)


def test_what_is_counted_says_when_it_will_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    noted: list[str] = []
    for thing, expected in zip(counted("abc", 3, "batch", noted.append), "abc", strict=True):
        assert thing == expected
        clock.sleep(5)
    assert noted == ["batch 1 of 3", "batch 2 of 3, 10 s left", "batch 3 of 3, 5 s left"]
    assert list(counted("ab", 2, "batch", silent)) == ["a", "b"]


def test_every_long_step_of_an_export_notes_where_it_is(
    own: tuple[nn.Module, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[tuple[str, str]] = []

    @contextmanager
    def noting(tell: progress.Tell, title: str) -> Iterator[progress.Tell]:
        with stage(tell, title):
            yield lambda text: noted.append((title, re.sub(r"\d+", "#", text.partition(",")[0])))

    monkeypatch.setattr("purify_export.bundle.stage", noting)
    split = quadrants(channels=3, count=400)
    images, labels = split.images.permute(0, 2, 3, 1).numpy(), split.labels.numpy()
    export_pair(*own, images, labels, out=tmp_path / "own", int8=True, epsilon=0.1, rounds=1, targets=["onnx"])
    assert set(noted) >= {
        ("golden set", "attack"),
        ("golden set", "PyTorch's answers"),
        ("thresholds: 144 clean images", "PyTorch's answers"),
        ("calibration of INT8", "attack"),
        ("models/*.fp16.onnx", "ranges of purified"),
        ("models/*.fp16.onnx", "ranges of logits"),
        ("models/*.int8.onnx", "ranges for INT#"),
        ("models/*.int8.onnx", "layers alone in INT#: # of #"),
        ("models/*.int8.onnx", "attempt #"),
        ("parity and latency against PyTorch", "parity: onnxruntime"),
        ("parity and latency against PyTorch", "latency"),
        ("gate", "fp#"),
    }
