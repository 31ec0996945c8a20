"""A short soak of a camera; `python -m lab.camera_soak` is the long one."""

import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab import camera_soak
from lab.camera_soak import CameraSoak, Ended, ProcessSample, clip_of, growth, problems
from purify_edge.bundle.reader import Bundle
from purify_edge.errors import MissingError

WAY = ("--engine", "onnxruntime", "--precision", "fp32")
CLIP = 8
SAMPLES = [ProcessSample(seconds=n, lines=100 * n, resident_mib=150.0, handles=4, threads=9) for n in range(1, 11)]
ENDED = Ended(
    seconds=0.3, last_line_s=0.0, code=128 + signal.SIGTERM, said="  ended by SIGTERM\n  16 images in 1.0 s; ..."
)


@pytest.fixture
def soak(bundle_path: Path, tmp_path: Path) -> Iterator[CameraSoak]:
    soak = CameraSoak(bundle_path, clip_of(Bundle.open(bundle_path))[:CLIP], tmp_path / "out.jsonl", WAY)
    yield soak
    soak.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_camera_is_run_and_ended(soak: CameraSoak, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_soak, "MAX_GROWTH_MIB", 100)  # so short a run is all warm-up
    for limit in ("END_S", "GIVE_UP_S"):
        monkeypatch.setattr(camera_soak, limit, 300)  # no matter how busy this machine is
    ended = soak.run(200, seconds=300, every_s=0.05)
    found = problems(soak.samples, ended, tmp_path / "out.jsonl", CLIP)
    assert [problem for problem in found if "grew" not in problem] == []
    assert soak.samples[-1].lines >= 200
    assert soak.samples[-1].threads > 1
    assert soak.samples[-1].handles >= 4


def test_a_run_that_ends_by_itself_is_told(bundle_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    soak = CameraSoak(bundle_path, clip_of(Bundle.open(bundle_path))[:CLIP], out, WAY)
    try:
        with pytest.raises(MissingError, match=r"expected a name that ends with \.jsonl or \.csv"):
            soak.run(200, seconds=300, every_s=0.2)
    finally:
        soak.close()


def written(path: Path, count: int, **changes: object) -> Path:
    line = {"file": "standard input", "time_s": 1.0, "label": 1, "class": "a", "probability": 0.9, "model": "m"}
    path.write_text("".join(json.dumps(line | {"frame": number}) + "\n" for number in range(count)))
    return path


def test_all_is_well(tmp_path: Path) -> None:
    assert problems(SAMPLES, ENDED, written(tmp_path / "out.jsonl", 16), CLIP) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"resident_mib": 170.0}, "resident_mib grew by 20, limit 16"),
        ({"handles": 5}, "handles grew by 1, limit 0"),
        ({"threads": 10}, "threads grew by 1, limit 0"),
    ],
)
def test_growth_after_the_warm_up_is_found(tmp_path: Path, change: dict[str, float], problem: str) -> None:
    samples = [replace(sample, **change) if sample.lines > 500 else sample for sample in SAMPLES]  # type: ignore[arg-type]
    assert problems(samples, ENDED, written(tmp_path / "out.jsonl", 16), CLIP) == [problem]
    early = [replace(sample, resident_mib=90.0) if sample.lines < 100 else sample for sample in SAMPLES]
    assert growth(early)["resident_mib"] == 0


@pytest.mark.parametrize(
    ("ended", "problem"),
    [
        (replace(ENDED, seconds=1.5), "SIGTERM ended it after 1.50 s with code 143"),
        (replace(ENDED, code=-9), "SIGTERM ended it after 0.30 s with code -9"),
        (replace(ENDED, said="  17 images in 1.0 s"), "16 whole lines, but purify-run said: 17 images"),
        (replace(ENDED, said=""), "16 whole lines, but purify-run said:"),
    ],
)
def test_another_end_is_found(tmp_path: Path, ended: Ended, problem: str) -> None:
    (found,) = problems(SAMPLES, ended, written(tmp_path / "out.jsonl", 16), CLIP)
    assert problem in found.replace("said:   ", "said: ")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"frame": 5}', '"frame": 6}', "line 6 is of frame 6"),
        (
            '"probability": 0.9, "model": "m", "frame": 9}',
            '"probability": 0.8, "model": "m", "frame": 9}',
            "frame 9 got",
        ),
        (
            '"probability": 0.9, "model": "m", "frame": 3}',
            '"error": "lost", "model": "m", "frame": 3}',
            "frame 3: lost",
        ),
    ],
)
def test_a_wrong_line_is_found(tmp_path: Path, old: str, new: str, problem: str) -> None:
    out = written(tmp_path / "out.jsonl", 16)
    text = out.read_text()
    assert old in text
    out.write_text(text.replace(old, new, 1))
    assert problems(SAMPLES, ENDED, out, CLIP)[0].startswith(problem)


def test_a_line_that_is_not_whole_is_found(tmp_path: Path) -> None:
    out = written(tmp_path / "out.jsonl", 16)
    out.write_text(out.read_text() + '{"fil')
    assert problems(SAMPLES, ENDED, out, CLIP)[0].startswith("16 whole lines, but")
