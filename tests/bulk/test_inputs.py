"""Which files a bulk run takes: those of purify-run, in its order; everything else is refused."""

import os
from pathlib import Path

import pytest

from helpers.images import zipped
from purify_edge.bulk.inputs import find_inputs
from purify_edge.errors import InputError
from purify_edge.images.sources import open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a/z.jpg", "a/b.JPEG", "a/notes.txt", ".hidden/c.png"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return tmp_path / "photos"


def test_files_are_those_of_purify_run(folder: Path) -> None:
    for arguments in ([str(folder)], [f"{folder}/**/*"], [f"{folder}/a", f"{folder}/b.png"]):
        found = find_inputs(arguments)
        items = [item.file for argument in arguments for source in open_source(argument) for item in source.items()]
        assert found.paths == list(dict.fromkeys(items))
        assert not found.broken
    assert str(find_inputs([str(folder)]).passed) == "1 file of other kinds (.txt 1), 1 hidden"


def test_a_file_that_is_named_twice_is_taken_once(folder: Path) -> None:
    found = find_inputs([str(folder), f"{folder}/a/../b.png"])
    assert (len(found.paths), found.repeated) == (3, 1)


def test_what_names_nothing_is_an_error_of_its_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    found = find_inputs([f"{tmp_path}/none", f"{tmp_path}/*.gif"])
    assert not found.paths
    assert "has no images" in found.broken[f"{tmp_path}/none"]
    assert "nothing matches" in found.broken[f"{tmp_path}/*.gif"]


def test_a_name_that_parquet_cannot_hold_is_an_error(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"x")
    found = find_inputs([str(tmp_path)])
    assert list(found.broken) == [f"{tmp_path}/\\xff.png"]
    assert "not UTF-8" in next(iter(found.broken.values()))


def test_everything_else_is_refused(folder: Path, tmp_path: Path) -> None:
    pipe, video = tmp_path / "pipe", tmp_path / "clip.mp4"
    os.mkfifo(pipe)
    video.write_bytes(b"x")
    archive = zipped(folder, tmp_path / "photos.zip")
    for argument in ("-", "0", str(archive), str(video), f"{tmp_path}/*.mp4"):
        with pytest.raises(InputError, match="purify-run takes everything else"):
            find_inputs([argument])
    with pytest.raises(InputError, match="use purify-run"):
        find_inputs([str(pipe)])
    with pytest.raises(InputError, match=r"read_binary_files"):
        find_inputs(["s3://bucket/photos"])
