"""Files are whole or not there, links stay links, and a file system without locks is no obstacle."""

import errno
import os
from pathlib import Path

import pytest

from purify_edge.files import atomic, locked, try_lock


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "disk" / "real.json")
    for content in ("one", "two"):
        with atomic(tmp_path / "link.json") as temporary:
            temporary.write_text(content)
        assert (tmp_path / "link.json").is_symlink()
        assert (tmp_path / "disk" / "real.json").read_text() == content


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), atomic(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.json", "before")]


def test_the_longest_name_that_a_folder_takes_can_be_written(tmp_path: Path) -> None:
    with atomic(tmp_path / ("a" * 255)) as temporary:
        temporary.write_text("x")
    assert [len(file.name) for file in tmp_path.iterdir()] == [255]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_there_are_no_locks_the_work_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def without(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", without)
    with (tmp_path / "results").open("a") as file:
        assert try_lock(file)
    with locked(tmp_path / "lock", waiting=pytest.fail):
        pass
    told = {record.getMessage() for record in caplog.records}
    assert len(told) == 2
    assert all("cannot be locked" in line for line in told)


def test_another_failure_of_a_lock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr("fcntl.flock", broken)
    with (tmp_path / "results").open("a") as file, pytest.raises(OSError, match="the disk is broken"):
        try_lock(file)


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    """As /dev/null does, which root could replace."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    with atomic(pipe) as temporary:
        temporary.write_bytes(b"content")
    assert os.read(reader, 100) == b"content"
    os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
