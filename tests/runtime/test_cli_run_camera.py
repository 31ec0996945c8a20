"""purify-run on cameras: raw frames on standard input, an end by signals, what is refused."""

import json
import os
import shutil
import signal
import subprocess
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from helpers.fixtures import Run as Command
from helpers.fixtures import Start
from helpers.processes import json_lines, wait_for
from helpers.refusals import refusal
from helpers.streams import RATE, serving
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.engines.tensorrt.store import EnginePolicy
from purify_edge.run.job import Job
from purify_edge.run.results import ResultsFile
from purify_edge.run.runner import Run

pytestmark = pytest.mark.once

WAY = ("--engine", "onnxruntime", "--precision", "fp32")
COUNT = 20


@pytest.fixture
def frames(bundle_path: Path) -> tuple[bytes, np.ndarray]:
    """Golden images as a camera's raw frames, RGB, 28 x 28, and their classes."""
    split = load_golden(Bundle.open(bundle_path))["clean"]
    return split.images[:COUNT].repeat(3, axis=3).tobytes(), split.defended[:COUNT].argmax(axis=1)


@pytest.fixture
def without_opencv(tmp_path: Path) -> dict[str, str]:
    """An environment in which OpenCV cannot be imported."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "cv2.py").write_text("raise ImportError('there is no OpenCV here')")
    return {**os.environ, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}


def saved(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "frames.rgb"
    path.write_bytes(content)
    return path


def test_raw_frames_are_run_without_opencv(
    run: Command, bundle_path: Path, tmp_path: Path, frames: tuple[bytes, np.ndarray], without_opencv: dict[str, str]
) -> None:
    with saved(tmp_path, frames[0]).open("rb") as stdin:
        command = ("purify-run", bundle_path, *WAY, "--raw", "28x28", "-", "--json", "--save", tmp_path / "saved")
        code, out, err = run(*command, stdin=stdin, env=without_opencv)
    assert code == 0, err
    found = json_lines(out)
    assert [line["label"] for line in found] == frames[1].tolist()
    assert [line["frame"] for line in found] == list(range(COUNT))
    assert {line["file"] for line in found} == {"standard input"}
    assert len(list((tmp_path / "saved" / "stream").iterdir())) == COUNT


def test_the_colours_of_raw_frames_are_rgb(tmp_path: Path) -> None:
    from helpers.images import COLOUR
    from purify_edge.images.cameras.raw import RawFrames

    red = np.zeros((2, 20, 40, 3), np.uint8)
    red[..., 0] = 255
    with saved(tmp_path, red.tobytes()).open("rb") as stream:
        for item in RawFrames((40, 20), stream=stream, pictures=True).items():
            assert item.read(COLOUR)[14, 14].tolist() == [255, 0, 0]
            assert item.picture is not None
            assert item.picture[10, 10].tolist() == [0, 0, 255]  # as OpenCV has it


@pytest.mark.parametrize(
    ("count", "extra", "code", "message"),
    [
        (3, b"x" * 100, 1, "standard input ended within frame 3, after 100 of 2,352 bytes: expected frames of 28x28"),
        (0, b"x" * 100, 2, "standard input ended within frame 0, after 100 of 2,352 bytes"),
        (0, b"", 2, "standard input ended at once: expected frames of 28x28 pixels, 3 bytes each (RGB)"),
        (0, b"Setting pipeline to PAUSED", 2, "messages of gst-launch-1.0 and no frame; give it -q"),
        (0, b"Setting pipeline to PAUSED".ljust(5000), 2, "messages of gst-launch-1.0, not a frame; give it -q"),
    ],
)
def test_frames_that_are_not_whole_are_told(
    run: Command,
    bundle_path: Path,
    tmp_path: Path,
    frames: tuple[bytes, np.ndarray],
    count: int,
    extra: bytes,
    code: int,
    message: str,
) -> None:
    content = frames[0][: count * 28 * 28 * 3] + extra
    with saved(tmp_path, content).open("rb") as stdin:
        found, out, err = run("purify-run", bundle_path, *WAY, "--raw", "28x28", "-", stdin=stdin)
    assert found == code, err
    assert message in err
    assert "Traceback" not in err
    assert out.count("│") // 6 >= count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--raw", "28", "-"], "expected WIDTHxHEIGHT in pixels, like 1280x720, got '28'"),
        (["--raw", "30x20", "-"], "30x20: expected a width that is a multiple of 4"),
        (["--raw", "60000x60000", "-"], "expected no more than 64,000,000 pixels"),
        (["--raw", "28x28", "a.png"], "--raw takes standard input alone: expected the input -, got a.png"),
        (["--raw", "28x28", "-", "--shard", "1/2"], "a camera or a stream cannot be divided"),
        (["--reconnect", "-1", "0"], "--reconnect"),
        (["97", "a.png"], "a camera or stream has no end: give it last"),
        (["csi://x"], "csi://x: expected csi:// and the number of a sensor"),
    ],
)
def test_what_cannot_be_is_refused(run: Command, bundle_path: Path, arguments: list[str], message: str) -> None:
    assert message in refusal(*run("purify-run", bundle_path, *WAY, *arguments))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_camera_in_good_order(
    start: Start, bundle_path: Path, tmp_path: Path, frames: tuple[bytes, np.ndarray], how: signal.Signals
) -> None:
    out, video = tmp_path / "out.jsonl", tmp_path / "out.avi"
    outputs = ("--out", out, "--annotate", video, "--metrics", tmp_path / "metrics")
    process = start("purify-run", bundle_path, *WAY, "--raw", "28x28", "-", "--json", *outputs, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.buffer.write(frames[0][: 5 * 28 * 28 * 3 + 100])  # five frames, and a part of another
    process.stdin.buffer.flush()
    lines = [process.stdout.readline() for _ in range(5)]
    process.send_signal(how)
    process.wait(300)  # its standard input is still open
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.returncode == 128 + how, said
    assert f"ended by {how.name}" in said
    assert "5 images in" in said
    assert out.read_text() == "".join(lines)
    assert video.exists()
    assert 'purify_images_total{outcome="good"} 5.0' in (tmp_path / "metrics").read_text()


def test_a_run_goes_on_with_the_bundle_that_it_opened(
    start: Start, bundle_copy: Path, tmp_path: Path, frames: tuple[bytes, np.ndarray]
) -> None:
    size, out = 28 * 28 * 3, tmp_path / "out.jsonl"
    process = start(
        "purify-run", bundle_copy, *WAY, "--raw", "28x28", "-", "--json", "--out", out, stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    labels = []
    for number in range(COUNT):
        if number == COUNT // 2:
            shutil.rmtree(bundle_copy)
            bundle_copy.mkdir()
            (bundle_copy / "manifest.json").write_text("another")
        process.stdin.buffer.write(frames[0][number * size : (number + 1) * size])
        process.stdin.buffer.flush()
        labels.append(json.loads(process.stdout.readline())["label"])
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert labels == frames[1].tolist()


def test_a_camera_started_again_adds_to_its_results_and_remembers_none(
    run: Command, bundle_path: Path, tmp_path: Path, frames: tuple[bytes, np.ndarray]
) -> None:
    out, command = tmp_path / "out.jsonl", ("purify-run", bundle_path, *WAY, "--raw", "28x28", "-", "--json")
    for _ in range(2):
        with saved(tmp_path, frames[0]).open("rb") as stdin:
            code, _, err = run(*command, "--out", out, stdin=stdin)
        assert code == 0, err
    assert [line["label"] for line in json_lines(out.read_text())] == [*frames[1], *frames[1]]
    model = json_lines(out.read_text())[0]["model"]
    with closing(ResultsFile(out, model=model, comes_again=False)) as results:
        assert not results.done
    with saved(tmp_path, frames[0]).open("rb") as stdin:
        code, _, err = run(*command, "--out", out, "--annotate", tmp_path / "out.avi", stdin=stdin)
    assert code == 2
    assert "a video cannot be continued" in err


def test_the_newest_frame_is_run_and_none_waits_long(bundle_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    metrics = tmp_path / "metrics"
    with serving() as url:
        job = Job(
            bundle=bundle_path, inputs=(url,), engine="onnxruntime", precision="fp32", verify=None,
            policy=EnginePolicy(), reconnect_s=0, metrics=str(metrics),
        )  # fmt: skip
        with Run(job) as work:
            good = 0
            for (result,) in work.results():  # one at a time
                good += result.error is None
                wait_for(lambda: work.dropped > RATE // 2)  # as if the engine were that slow
    assert good + work.dropped == RATE
    assert f"purify_dropped_frames_total {work.dropped}.0" in metrics.read_text()
