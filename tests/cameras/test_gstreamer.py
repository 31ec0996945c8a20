"""Cameras by a real GStreamer: `make test-cameras` installs it, and names a Python with its gi in the environment."""

import json
import logging
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import pytest

import purify_edge
from helpers.fixtures import Run, Start
from helpers.images import COLOUR
from helpers.ports import free_port
from helpers.processes import json_lines, wait_for
from helpers.project import REPOSITORY
from helpers.refusals import refusal
from purify_edge.doctor.findings import Status
from purify_edge.doctor.host import Host
from purify_edge.doctor.packages import probe_packages
from purify_edge.errors import InputError, MissingError
from purify_edge.images.cameras import pipelines
from purify_edge.images.cameras.addresses import csi_pipeline, rtsp_pipeline
from purify_edge.images.cameras.camera import Camera
from purify_edge.images.cameras.gstreamer import GStreamer
from purify_edge.images.sources import open_source

PYTHON = os.environ.get("PURIFY_TEST_GSTREAMER")
pytestmark = pytest.mark.skipif(not PYTHON, reason="$PURIFY_TEST_GSTREAMER names no Python; run make test-cameras")

SERVER = Path(__file__).parents[1] / "helpers" / "rtsp_server.py"
WAY = ("--engine", "onnxruntime", "--precision", "fp32")
JETSON = (REPOSITORY / "docs/jetson.md").read_text()
SMALL = "video/x-raw,width=64,height=48"


@contextmanager
def serving(port: int) -> Iterator["subprocess.Popen[str]"]:
    """An RTSP server, killed at the end."""
    process = subprocess.Popen([PYTHON or "", str(SERVER), str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def url(port: int) -> str:
    return f"rtsp://127.0.0.1:{port}/camera"


@pytest.mark.parametrize("sink", ["", " ! videoconvert ! appsink", " ! videoconvert ! appsink name=mine sync=false"])
@pytest.mark.parametrize(("pattern", "colour"), [("red", (255, 0, 0)), ("blue", (0, 0, 255))])
def test_a_pipeline_gives_every_frame_in_its_colours(sink: str, pattern: str, colour: tuple[int, ...]) -> None:
    (source,) = open_source(f"videotestsrc num-buffers=20 pattern={pattern} ! {SMALL}{sink}", pictures=True)
    assert isinstance(source, Camera)
    items = list(source.items())
    assert [item.frame for item in items] == list(range(20))
    assert source.dropped == 0  # it is not live
    assert source.fps == 30
    for item in items:
        assert item.picture is not None
        assert item.picture.shape[:2] == (48, 64)
        assert np.abs(item.read(COLOUR)[14, 14].astype(int) - colour).max() <= 2


def test_rows_of_any_width_are_right() -> None:
    """GStreamer fills up rows of 24 bits a pixel."""
    (source,) = open_source(
        "videotestsrc num-buffers=1 pattern=smpte75 ! video/x-raw,width=51,height=30", pictures=True
    )
    (item,) = source.items()
    assert item.picture is not None
    assert (item.picture[:10] == item.picture[0]).all()  # bars, straight from top to bottom
    assert len(np.unique(item.picture[0].reshape(-1, item.picture.shape[2]), axis=0)) >= 7


def test_a_live_pipeline_ends_where_it_says_so() -> None:
    (source,) = open_source(f"videotestsrc is-live=true num-buffers=10 ! {SMALL},framerate=50/1")
    assert isinstance(source, Camera)
    assert len(list(source.items())) + source.dropped == 10


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("videotestsrc ! nosuchelement", 'no element "nosuchelement"'),
        ("videotestsrc nosuch=1 ! videoconvert", 'no property "nosuch" in element "videotestsrc"'),
        ("videotestsrc ! audioconvert", "could not link videotestsrc0 to audioconvert0"),
    ],
)
def test_a_wrong_pipeline_is_refused_in_gstreamers_own_words(
    run: Run, bundle_path: Path, pipeline: str, message: str
) -> None:
    assert message in refusal(*run("purify-run", bundle_path, *WAY, pipeline))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("filesrc location=/nowhere ! decodebin", 'cannot be opened (Resource not found: No such file "/nowhere")'),
        ("v4l2src device=/dev/video97 ! videoconvert", "Cannot identify device '/dev/video97'"),
        ("rtsp://me:secret@127.0.0.1:9/x", "rtsp://me:***@127.0.0.1:9/x cannot be opened (Could not open resource"),
        ("csi://0", "read by GStreamer's nvarguscamerasrc and nvvidconv, which only a Jetson has"),
    ],
)
def test_what_is_not_there_is_missing(run: Run, bundle_path: Path, name: str, message: str) -> None:
    code, _, err = run("purify-run", bundle_path, *WAY, name)
    assert code == 3, err
    assert message in err
    assert "secret" not in err
    assert "Traceback" not in err


def test_an_rtsp_stream_is_read_by_gstreamer() -> None:
    port = free_port()
    with serving(port):
        (source,) = open_source(url(port), pictures=True)
        assert isinstance(source, Camera)
        items = source.items()
        for _, item in zip(range(10), items, strict=False):
            assert item.picture is not None
            assert item.picture.shape == (240, 320, 4)  # GStreamer's; OpenCV's have three
            assert np.abs(item.read(COLOUR)[14, 14].astype(int) - (0, 0, 255)).max() <= 8
        assert source.fps == 20
        source.stop()
        assert list(items) == []


def test_the_pipelines_of_a_jetson_run_with_stand_ins_for_its_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which are not to be had: a test picture for the sensor, GStreamer's own converter for NVIDIA's."""
    monkeypatch.setattr(GStreamer, "has", lambda self, name: True)
    sensor = csi_pipeline("csi://1")
    assert sensor in JETSON.replace("sensor-id=0", "sensor-id=1")
    own = "videotestsrc is-live=true num-buffers=5 pattern=blue"
    sensor = sensor.replace("nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM)", own)
    port = free_port()
    with serving(port):
        for pipeline in (sensor, rtsp_pipeline(url(port), on_jetson=True)):
            source = Camera(pipeline.replace("nvvidconv", "videoconvert"))
            items = source.items()
            assert np.abs(next(items).read(COLOUR)[14, 14].astype(int) - (0, 0, 255)).max() <= 8
            source.stop()
            assert list(items) == []


def test_a_server_that_went_and_came_is_read_on(start: Start, bundle_path: Path, tmp_path: Path) -> None:
    port, said = free_port(), []
    out = tmp_path / "out.jsonl"

    def lines() -> int:
        return len(out.read_text().splitlines()) if out.exists() else 0

    with serving(port):
        process = start("purify-run", bundle_path, *WAY, url(port), "--out", out, "--metrics", tmp_path / "metrics")
        assert process.stderr is not None
        reader = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
        reader.start()
        wait_for(lambda: lines() >= 5)
    wait_for(lambda: any("trying again in 2 s" in line for line in said))
    before = lines()
    with serving(port):
        wait_for(lambda: lines() >= before + 5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 143
    reader.join()
    text = "".join(said)
    assert f"{url(port)} was lost (" in text
    assert f"{url(port)} is back after" in text
    assert "lost the camera and got it back 1 time" in text
    found = json_lines(out.read_text())  # every line is whole
    assert [line["frame"] for line in found] == list(range(len(found)))
    assert "purify_camera_returns_total 1.0" in (tmp_path / "metrics").read_text()


def test_a_server_that_falls_silent_is_lost(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As where a cable is drawn: nobody closes the connection."""
    caplog.set_level(logging.WARNING, "purify_edge")
    port = free_port()
    with serving(port) as server:
        source = Camera(url(port), reconnect_s=300)
        items = source.items()
        next(items)
        with monkeypatch.context() as patch:  # but while it is opened, which may take longer
            patch.setattr(pipelines, "SILENCE_S", 1.0)
            for _ in range(3):  # the last of them came after that, and tells how long the next may take
                next(items)
            server.send_signal(signal.SIGSTOP)
            wait_for(lambda: "was lost" in caplog.text)
        server.send_signal(signal.SIGCONT)
        while not source.returns:
            next(items)
        source.stop()
        assert list(items) == []
    assert "was lost (no frame for 1 s)" in caplog.text


def test_a_camera_faster_than_the_engine_gives_its_newest_frames(
    start: Start, bundle_path: Path, tmp_path: Path
) -> None:
    pipeline, out = f"videotestsrc is-live=true ! {SMALL},framerate=2000/1", tmp_path / "out.jsonl"
    process = start("purify-run", bundle_path, *WAY, pipeline, "--out", out, "--metrics", tmp_path / "metrics")
    wait_for(lambda: out.exists() and out.read_text().count("\n") >= 50)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    told = re.search(r"([\d,]+) images in .*left out ([\d,]+) frames for newer ones", err)
    assert told is not None, err
    assert len(json_lines(out.read_text())) == int(told[1].replace(",", ""))
    metrics = re.search(r"^purify_dropped_frames_total ([\d.e+]+)", (tmp_path / "metrics").read_text(), re.MULTILINE)
    assert metrics is not None
    assert 0 < float(metrics[1]) <= int(told[2].replace(",", ""))


def test_raw_frames_of_gst_launch_are_run(start: Start, bundle_path: Path) -> None:
    raw = "video/x-raw,format=RGB,width=320,height=240"
    for quiet, code in ((["-q"], 0), ([], 2)):
        command = ["gst-launch-1.0", *quiet, *f"videotestsrc num-buffers=20 ! {raw} ! fdsink".split()]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as sender:
            process = start("purify-run", bundle_path, *WAY, "--raw", "320x240", "-", "--json", stdin=sender.stdout)
            out, err = process.communicate(timeout=300)
            assert sender.stdout is not None
            sender.stdout.close()
        assert process.returncode == code, err
        assert len(json_lines(out)) == (20 if code == 0 else 0)
    assert "give it -q" in err


def test_what_gstreamer_refuses_in_a_library_is_an_error() -> None:
    with pytest.raises(InputError, match="no element"):
        list(Camera("nosuch ! videoconvert").items())
    with pytest.raises(MissingError, match=r"cannot be opened \(it ended without a frame\)"):
        list(Camera("videotestsrc num-buffers=0 ! videoconvert").items())


def test_the_doctor_tells_what_decodes_network_cameras() -> None:
    finding = {finding.name: finding for finding in probe_packages(Host())}["GStreamer"]
    assert finding.status is Status.OK
    assert re.fullmatch(r"1\.\d+\.\d+, rtsp:// decoded by \w+", finding.value)


def test_the_doctor_tells_that_debians_opencv_has_gstreamer() -> None:
    """That one is of another Python, which has what the doctor imports too."""
    program = "import json; from purify_edge.doctor import native; print(json.dumps(native.opencv()))"
    paths = os.pathsep.join([str(Path(purify_edge.__file__).parents[1]), str(Path(click.__file__).parents[1])])
    done = subprocess.run(
        [PYTHON or "", "-c", f"import sys; sys.path += {paths.split(os.pathsep)!r}; {program}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["built"]["GStreamer"]
