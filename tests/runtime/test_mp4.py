"""An MP4's boxes, whole and damaged: none of them may raise."""

import struct
from pathlib import Path

import pytest

from purify_edge.images.mp4 import Claim, claim_of


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no boxes at all",
        box(b"moov", box(b"mvhd")),
        box(b"moov", box(b"mvhd", bytes(3))),
        box(b"moov", struct.pack(">I4sQ", 1, b"mvhd", 2**63 + 8)),
        struct.pack(">I4sQ", 1, b"moov", 2**64 - 1),
        box(b"moov", struct.pack(">I4s", 4_000_000_000, b"mvhd") + bytes(32)),
        box(b"moov", box(b"mvhd", bytes(32)) + box(b"trak", box(b"mdia", box(b"hdlr", bytes(8) + b"vide")))),
    ],
)
def test_a_file_that_promises_nothing_that_can_be_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert claim_of(path) == Claim()


def test_media_beyond_the_end_are_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(box(b"ftyp") + struct.pack(">I4s", 1000, b"mdat") + bytes(100))
    assert not claim_of(path).whole
