import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.images import COLOUR, GREY
from purify_edge.errors import InputError
from purify_edge.images.pictures import image_of
from purify_edge.images.sources import open_source
from purify_edge.images.video import Video, require
from purify_edge.run.saving import Annotator

pytest.importorskip("cv2")
cv2 = require()
LEVELS = [0, 50, 100, 150, 200, 250]


def write_video(path: Path, *, fps: float = 10, size: tuple[int, int] = (64, 48), repeat: int = 1) -> Path:
    """A video of plain grey frames, each level `repeat` times; the left half of each is blue."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
    for level in LEVELS * repeat:
        frame = np.full((size[1], size[0], 3), level, np.uint8)
        frame[:, : size[0] // 2] = (255, 0, 0)  # BGR
        writer.write(frame)
    writer.release()
    return path


def frames(path: Path) -> list[np.ndarray]:
    capture, found = cv2.VideoCapture(str(path)), []
    while True:
        good, frame = capture.read()
        if not good:
            return found
        found.append(frame)


def test_a_video_is_its_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi")
    (source,) = open_source(str(path))
    items = list(source.items())
    assert source.count() == len(items) == len(LEVELS)
    assert [item.frame for item in items] == list(range(6))
    assert [item.time_s for item in items] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5], abs=0.02)
    assert [str(item.place) for item in items[:2]] == ["clip.avi/000000", "clip.avi/000001"]
    assert {item.file for item in items} == {str(path)}
    assert all(item.picture is None for item in items)
    for item, level in zip(items, LEVELS, strict=True):
        pixels = item.read(COLOUR)
        assert pixels.shape == (28, 28, 3)
        assert np.abs(pixels[14, 24].astype(int) - level).max() <= 6
        assert pixels[14, 3, 0] < 60  # blue is blue: RGB, not BGR
        assert pixels[14, 3, 2] > 200
        assert item.read(GREY).shape == (28, 28, 1)


def test_a_bad_video_is_an_item_that_cannot_be_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, content, message in (
        ("text.mp4", b"this is no video", r"text\.mp4 cannot be read as a video \(it is no video"),
        ("empty.mp4", b"", r"empty\.mp4 cannot be read as a video \(it is empty"),
    ):
        (tmp_path / name).write_bytes(content)
        (source,) = open_source(str(tmp_path / name))
        (item,) = source.items()
        assert source.count() is None
        with pytest.raises(InputError, match=message):
            item.read(GREY)
    assert capfd.readouterr().err == ""


def test_a_video_that_ends_too_soon_is_told(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", repeat=20)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(content) // 3] = bytes(len(content) // 3)  # the index at the end is kept
    path.write_bytes(content)
    (source,) = open_source(str(path))
    *good, last = source.items()
    assert 40 < len(good) < 110
    with pytest.raises(InputError, match=r"clip\.avi is damaged: it ended after \d+ of about 120 frames"):
        last.read(GREY)


def write_coded(path: Path, codec: str) -> Path:
    """A video of 60 frames, 10 a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, (64, 48))
    for level in LEVELS * 10:
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    return path


def edit(path: Path, *, begin_s: float, play_s: float) -> None:
    """Have an MP4 that OpenCV wrote play a part of its frames alone, by its edit list."""
    content = bytearray(path.read_bytes())

    def clock(box: bytes) -> int:
        return int.from_bytes(content[content.find(box) + 16 :][:4], "big")

    edits = struct.pack(">Ii", int(play_s * clock(b"mvhd")), int(begin_s * clock(b"mdhd")))
    struct.pack_into(">8s", content, content.find(b"elst") + 12, edits)
    path.write_bytes(content)


def index_first(path: Path) -> None:
    """Put an MP4's index before its frames, as those are that begin to play while they come."""
    content = path.read_bytes()
    begin = content.find(b"moov") - 4
    (size,) = struct.unpack_from(">I", content, begin)
    index, head = bytearray(content[begin : begin + size]), content.find(b"mdat") - 4
    place = index.find(b"stco") + 12
    chunks = range(place, place + 4 * struct.unpack_from(">I", index, place - 4)[0], 4)
    for chunk in chunks:
        struct.pack_into(">I", index, chunk, struct.unpack_from(">I", index, chunk)[0] + size)
    path.write_bytes(content[:head] + index + content[head:begin] + content[begin + size :])


def frames_and_error(path: Path) -> tuple[int, str]:
    """How many frames of a video can be read, and what is said of the rest."""
    count = 0
    for item in Video(path).items():
        try:
            item.read(GREY)
            count += 1
        except InputError as error:
            return count, str(error)
    return count, ""


@pytest.mark.parametrize(("begin_s", "play_s", "count"), [(0, 4, 40), (2, 4, 40), (3, 1, 10), (5.9, 0.1, 1)])
def test_a_video_with_an_edit_list_is_whole(
    tmp_path: Path, begin_s: float, play_s: float, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_coded(tmp_path / "clip.mp4", "mp4v")
    edit(path, begin_s=begin_s, play_s=play_s)
    assert frames_and_error(path) == (count, "")
    assert not caplog.records
    index_first(path)
    assert frames_and_error(path) == (count, "")
    content = path.read_bytes()
    path.write_bytes(content[: content.find(b"mdat") + (len(content) - content.find(b"mdat")) // 3])
    found, error = frames_and_error(path)
    assert "ended after" in error, f"{found} of {count} frames"


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv", "clip.avi"])
@pytest.mark.parametrize("harm", ["cut off", "overwritten"])
def test_a_video_that_lost_frames_is_told(tmp_path: Path, name: str, harm: str) -> None:
    path = write_coded(tmp_path / name, "mp4v")
    if path.suffix in (".mp4", ".mov"):
        index_first(path)
    assert frames_and_error(path) == (60, "")
    content = bytearray(path.read_bytes())
    begin = content.find(b"mdat") + 4 if b"mdat" in content else 1000
    middle = (begin + len(content)) // 2
    content[middle:] = b"" if harm == "cut off" else b"\x55" * (len(content) - middle)
    path.write_bytes(content)
    count, error = frames_and_error(path)
    assert count < 60
    assert "ended after" in error


def test_a_video_whose_index_was_cut_off_is_told(tmp_path: Path) -> None:
    path = write_coded(tmp_path / "clip.mp4", "mp4v")
    path.write_bytes(path.read_bytes()[:1000])
    assert frames_and_error(path) == (0, f"{path} cannot be read as a video (it is cut off)")


def test_a_variable_rate_is_no_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its count is the duration times the highest rate: five times what there is."""
    path = write_coded(tmp_path / "clip.mkv", "MJPG")
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack(">I", 100_000_000), struct.pack(">I", 20_000_000)))  # ns a frame
    assert Video(path).count() == 300
    with caplog.at_level(logging.WARNING, "purify_edge"):
        assert frames_and_error(path) == (60, "")
    assert "gave 60 of about 300 frames: its rate varies, or some are missing" in caplog.text
    path.write_bytes(path.read_bytes()[: len(content) // 2])
    count, error = frames_and_error(path)
    assert f"is damaged: it ended after {count} of about 300 frames" in error


@pytest.mark.parametrize(("name", "codec"), [("clip.ts", "mpg2"), ("clip.webm", "VP80"), ("clip.flv", "FLV1")])
def test_a_video_without_a_count_is_whole(
    tmp_path: Path, name: str, codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_coded(tmp_path / name, codec)
    if name.endswith("webm"):  # as it is streamed: without a duration
        path.write_bytes(path.read_bytes().replace(b"\x44\x89\x88", b"\xec\x86\x88", 1))
        assert Video(path).count() is None
    assert frames_and_error(path) == (60, "")
    assert not caplog.records


def test_a_codec_that_opencv_lacks_is_named() -> None:
    """Its wheels read AV1 with the help of a GPU alone."""
    count, error = frames_and_error(Path(__file__).parents[1] / "assets" / "av1.webm")
    if count:
        pytest.skip("this OpenCV decodes AV1")
    assert "holds AV01 video, of which OpenCV here decodes no frame: it lacks the codec AV01" in error


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """OpenCV ends the process there."""
    name = f"{tmp_path}/caf\udce9.avi"
    write_video(tmp_path / "clip.avi").rename(name)
    assert frames_and_error(Path(name))[1] == f"{name} cannot be given to OpenCV, for its name is not UTF-8; rename it"
    assert Video(Path(name)).count() is None
    with pytest.raises(InputError, match=r"caf\udce9\S* cannot be given to OpenCV"):
        Annotator(tmp_path / "caf\udce9.mp4")


def test_what_stands_before_a_colon_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "10:30:05.avi")
    (frame, *_) = items = list(Video(Path("10:30:05.avi"), pictures=True).items())
    assert len(items) == len(LEVELS)
    assert frame.picture is not None
    with Annotator(Path("11:30.mp4")) as annotator:
        annotator.write(frame.picture, "x", time_s=0, fps=10)
    assert len(frames(tmp_path / "11:30.mp4")) == 1


def test_a_frame_that_opencv_fails_at_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.avi")

    class Failing:
        def __init__(self, name: str) -> None:
            self._capture, self._left = cv2_capture(name), 3

        def __getattr__(self, name: str) -> object:
            return getattr(self._capture, name)

        def read(self) -> object:
            self._left -= 1
            if self._left < 0:
                raise cv2.error("Insufficient memory")
            return self._capture.read()

    cv2_capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Failing)
    count, error = frames_and_error(path)
    assert count == 3
    assert "clip.avi, frame 3 and all that follow cannot be read (Insufficient memory)" in error


@pytest.mark.parametrize("name", ["out.mp4", "out.avi", "out.mkv", "out.mov"])
def test_an_annotated_video_has_every_frame_with_words_on_it(tmp_path: Path, name: str) -> None:
    source = frames(write_video(tmp_path / "clip.avi", size=(320, 240)))
    out = tmp_path / name
    with Annotator(out) as annotator:
        for number, frame in enumerate(source):
            annotator.write(frame, "Ankle boot 98.5%", time_s=number / 10, fps=10, warn=number == 3)
        assert not out.exists()
    found = frames(out)
    assert len(found) == len(source)
    for before, after in zip(source, found, strict=True):
        assert after.shape == before.shape
        assert np.abs(after[:200].astype(int) - before[:200]).mean() < 8  # the picture is there
    caption = found[5][222:]
    assert (caption.min(axis=2) > 200).mean() > 0.01  # white on
    assert (caption.max(axis=2) < 60).mean() > 0.4  # black,
    assert found[3][230, 310, 2] > found[3][230, 310, 0] + 80  # or on red for a warning
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.avi", name]


def test_frames_that_were_left_out_keep_their_time(tmp_path: Path) -> None:
    (frame,) = frames(write_video(tmp_path / "clip.avi"))[:1]
    with Annotator(tmp_path / "out.avi") as annotator:
        for time_s in (100.0, 100.1, 100.5, 101.0):
            annotator.write(frame, "x", time_s=time_s, fps=10)
    assert len(frames(tmp_path / "out.avi")) == 11


@pytest.mark.parametrize(("error", "kept"), [(KeyboardInterrupt, True), (OSError, False)])
def test_an_annotated_video_is_kept_after_ctrl_c_alone(tmp_path: Path, error: type, kept: bool) -> None:
    (frame,) = frames(write_video(tmp_path / "clip.avi"))[:1]
    with pytest.raises(error), Annotator(tmp_path / "out.mp4") as annotator:
        annotator.write(frame, "x", time_s=0, fps=10)
        raise error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.avi", *(["out.mp4"] if kept else [])]


def test_an_annotated_video_of_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out\.gif: expected a name that ends with \.mp4"):
        Annotator(tmp_path / "out.gif")
    with pytest.raises(InputError, match="expected a name"):
        Annotator(tmp_path / "out")


def test_grey_frames_among_others_are_frames(tmp_path: Path) -> None:
    """As some cameras give them at night."""
    grey = np.full((48, 64), 200, np.uint8)
    for frame in (grey, np.dstack([grey] * 4)):
        assert image_of(frame, bgr=True).getpixel((5, 5)) == (200, 200, 200)
    with Annotator(tmp_path / "out.avi") as annotator:
        annotator.write(np.zeros((48, 64, 3), np.uint8), "x", time_s=0, fps=10)
        annotator.write(grey, "x", time_s=0.1, fps=10)
    assert frames(tmp_path / "out.avi")[1][5, 5].min() > 150


def test_frames_of_another_size_are_brought_to_the_first_ones(tmp_path: Path) -> None:
    with Annotator(tmp_path / "out.avi") as annotator:
        annotator.write(np.zeros((48, 64, 3), np.uint8), "x", time_s=0, fps=10)
        annotator.write(np.full((96, 64, 3), 200, np.uint8), "x", time_s=0.1, fps=10)
    assert [frame.shape for frame in frames(tmp_path / "out.avi")] == [(48, 64, 3)] * 2
    assert Image.fromarray(frames(tmp_path / "out.avi")[1]).getpixel((5, 5)) > (150, 150, 150)
