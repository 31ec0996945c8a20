import http.server
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.images import GREY
from helpers.processes import wait_for
from helpers.streams import RATE, serving
from purify_edge.errors import InputError, MissingError
from purify_edge.images.cameras import camera as module
from purify_edge.images.cameras import gstreamer
from purify_edge.images.cameras.addresses import is_camera, is_camera_device, without_password
from purify_edge.images.cameras.camera import Camera
from purify_edge.images.cameras.feeds import LostError
from purify_edge.images.items import Item
from purify_edge.images.sources import ImageFile, open_source
from purify_edge.images.video import require

pytest.importorskip("cv2")
cv2 = require()


def reason_of(item: Item) -> str:
    with pytest.raises(InputError) as caught:
        item.read(GREY)
    return str(caught.value)


def test_a_camera_that_is_not_there_is_missing() -> None:
    (source,) = open_source("97")
    assert source.live
    assert source.count() is None
    with pytest.raises(MissingError, match="camera 97 cannot be opened; see /dev/video"):
        next(source.items())


@pytest.mark.parametrize("name", ["/dev/video97", "v4l2:///dev/video97"])
def test_a_device_is_a_camera_and_no_image(name: str) -> None:
    (source,) = open_source(name)
    assert isinstance(source, Camera)
    with pytest.raises(MissingError, match=rf"{name} cannot be opened \(there is no such device\); see /dev/video"):
        next(source.items())


def test_only_what_v4l2_drives_is_a_camera_by_its_path(tmp_path: Path) -> None:
    link = tmp_path / "by-id"
    link.symlink_to("/dev/null")
    assert not is_camera_device(link)  # a device of another kind
    assert isinstance(open_source(str(link))[0], ImageFile)
    assert not any(map(is_camera, ("photos/[!a]*.png", "wow!.png", "/dev/video0.png", "a!")))
    (tmp_path / "a ! b.png").write_bytes(b"")
    assert isinstance(open_source(f"{tmp_path}/a ! b.png")[0], ImageFile)  # a file of this very name comes first


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("csi://front", "expected csi:// and the number of a sensor, as in csi://0"),
        ("v4l2://0", "expected v4l2:// and the path of a device, as in v4l2:///dev/video0"),
        ("rtsp://caf\udce9", "expected the name of a camera or stream in UTF-8"),
    ],
)
def test_a_camera_that_is_written_wrongly_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(name)


@pytest.fixture
def without_gstreamer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(gstreamer, "LIBRARIES", {"core": "libnosuch-1.0.so.0"})
    gstreamer.gstreamer.cache_clear()
    yield
    gstreamer.gstreamer.cache_clear()


@pytest.mark.usefixtures("without_gstreamer")
def test_without_gstreamer_pipelines_are_missing_and_rtsp_is_opencvs() -> None:
    for name in ("videotestsrc ! videoconvert", "csi://0"):
        with pytest.raises(MissingError, match=r"GStreamer is not installed .*: sudo apt install gstreamer1"):
            open_source(name)
    with pytest.raises(MissingError, match=r"rtsp://127\.0\.0\.1:9/x cannot be opened; does it play elsewhere"):
        next(Camera("rtsp://127.0.0.1:9/x").items())


def test_a_password_is_shown_nowhere() -> None:
    for name in ("rtsp://me:secret@host:554/1", "http://me:se@cret@h/x", "rtspsrc location=x user-pw=secret ! y"):
        shown = without_password(f"could not open {name} (refused)")
        assert "cret" not in shown
        assert "***" in shown
    assert without_password("rtsp://host:554/@") == "rtsp://host:554/@"


def test_a_stream_gives_the_newest_frame_until_it_is_lost() -> None:
    with serving() as url:
        (source,) = open_source(url, reconnect_s=0)
        assert isinstance(source, Camera)
        begin, items = time.time(), []
        for item in source.items():
            items.append(item)
            wait_for(lambda: source.dropped > RATE // 2)  # slower than the frames come
    *good, last = items
    assert f"{url} was lost (the stream ended" in reason_of(last)
    assert all(np.abs(item.read(GREY).astype(int) - 80).max() <= 4 for item in good)
    times = [item.time_s or 0 for item in good]
    assert [item.frame for item in good] == list(range(len(good)))
    assert len(good) + source.dropped == RATE
    assert begin <= times[0] <= times[-1] <= time.time()


def test_a_stream_that_was_lost_comes_back(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.1)
    caplog.set_level(logging.WARNING, "purify_edge")
    with serving(refused=(1, 2, 3), endless=(4,)) as url:
        source = Camera(url, reconnect_s=300)
        items, count = source.items(), 0
        while source.returns < 1:
            assert next(items).frame == count
            count += 1
        assert next(items).read(GREY).shape == (28, 28, 1)
        dropped = source.dropped
        wait_for(lambda: source.dropped > dropped)  # another one waits
        source.stop()
        assert list(items) == []
    said = [record.getMessage() for record in caplog.records]
    assert [line.rpartition("trying again in ")[2] for line in said[:-1]] == ["0.1 s", "0.2 s", "0.4 s", "0.8 s"]
    assert f"{url} is back after" in said[-1]


def test_a_stream_that_does_not_come_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.05)
    with serving() as url:
        items = Camera(url, reconnect_s=0.5).items()
        next(items)
    *_, last = items
    assert f"{url} was lost, and not back within 0.5 s (" in reason_of(last)


def test_a_camera_that_is_stopped_ends_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call, and says nothing
        source = Camera(f"http://127.0.0.1:{silent.getsockname()[1]}/x")
        stop = threading.Timer(0.3, source.stop)
        stop.start()
        assert list(source.items()) == []
    assert source.stop() is None  # once more is no harm


@pytest.mark.parametrize("frames", [0, 1])
def test_what_fails_once_a_camera_is_stopped_is_not_told(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a camera and its run are ended together."""

    class Ending:
        live, fps = True, 25.0

        def __init__(self, stopped: threading.Event) -> None:
            self.left = frames

        def read(self) -> np.ndarray:
            if self.left:
                self.left -= 1
                return np.zeros((28, 28, 3), np.uint8)
            source.stop()
            raise LostError("the stream ended")

        def close(self) -> None:
            pass

    source = Camera("http://127.0.0.1:9/x", reconnect_s=0)
    monkeypatch.setattr(source, "_open", Ending)
    monkeypatch.setattr(module, "GRACE_S", 300)  # so that it has failed when the items end
    for item in source.items():
        item.read(GREY)  # it is a frame


def test_a_stream_that_nobody_serves_is_missing() -> None:
    with pytest.raises(MissingError, match=r"http://127\.0\.0\.1:9/x cannot be opened; does it play elsewhere"):
        next(Camera("http://127.0.0.1:9/x").items())


def test_a_file_behind_a_url_is_run_whole(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for level in range(0, 250, 10):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = Camera(f"http://127.0.0.1:{server.server_address[1]}/clip.avi")
    levels = [int(item.read(GREY)[14, 14, 0]) for item in source.items() if time.sleep(0.01) is None]
    server.shutdown()
    server.server_close()
    assert np.abs(np.array(levels) - range(0, 250, 10)).max() <= 6
    assert source.dropped == 0
