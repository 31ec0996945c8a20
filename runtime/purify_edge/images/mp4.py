"""What an MP4 or QuickTime file says of its video: whether all of it is there, and how much of it is played."""

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

DAMAGED = (OSError, ValueError, LookupError, ArithmeticError, struct.error)
"""What reading a damaged file may raise."""
MAX_TABLE_BYTES = 1_000_000
Span = tuple[int, int]  # where a box's content begins and ends in the file


@dataclass(frozen=True)
class Claim:
    """What the file promises.

    An edit list plays a part of the frames that the file counts; the `share` is 1 without one. `play_s` is how long
    that takes; 0 where the file does not say. Media that reach beyond the end of the file are not `whole`.
    """

    whole: bool = True
    share: float = 1.0
    play_s: float = 0.0


def claim_of(path: Path) -> Claim:
    """Return what a file promises; one of another kind promises nothing."""
    with suppress(*DAMAGED), path.open("rb") as file:
        size = file.seek(0, 2)
        boxes = list(_boxes(file, (0, size)))
        whole = all(end <= size for kind, (_, end) in boxes if kind == b"mdat")
        share, play_s = 1.0, 0.0
        with suppress(*DAMAGED):
            share, play_s = _played(file, dict(boxes)[b"moov"])
        return Claim(whole, share, play_s)
    return Claim()


def _boxes(file: BinaryIO, span: Span) -> Iterator[tuple[bytes, Span]]:
    """Yield the kind of each box within a span, and where its content lies."""
    begin, end = span
    while begin + 8 <= end:
        file.seek(begin)
        size, kind = struct.unpack(">I4s", file.read(8))
        content = begin + 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            content += 8
        following = begin + size if size else end
        if following < content:
            return
        yield kind, (content, following)
        begin = following


def _within(file: BinaryIO, span: Span, *kinds: bytes) -> Span:
    for kind in kinds:
        span = dict(_boxes(file, span))[kind]
    return span


def _played(file: BinaryIO, movie: Span) -> tuple[float, float]:
    """Return the share of the video that is played, and its seconds."""
    ticks_per_s, _ = _clock(file, _within(file, movie, b"mvhd"))
    for kind, track in _boxes(file, movie):
        if kind == b"trak" and _read(file, _within(file, track, b"mdia", b"hdlr"))[8:12] == b"vide":
            media_per_s, media_ticks = _clock(file, _within(file, track, b"mdia", b"mdhd"))
            media_s = media_ticks / media_per_s
            with suppress(KeyError):
                edited_s = _edited(_read(file, _within(file, track, b"edts", b"elst"))) / ticks_per_s
                if 0 < edited_s < media_s:
                    return edited_s / media_s, edited_s
            return 1.0, media_s
    raise KeyError("vide")


def _read(file: BinaryIO, span: Span) -> bytes:
    file.seek(span[0])
    return file.read(min(span[1] - span[0], MAX_TABLE_BYTES))


def _clock(file: BinaryIO, header: Span) -> tuple[int, int]:
    """Return a header's ticks a second, and its duration in them."""
    content = _read(file, header)
    per_s, ticks = struct.unpack_from(">IQ", content, 20) if content[0] == 1 else struct.unpack_from(">II", content, 12)
    return per_s, ticks


def _edited(content: bytes) -> int:
    """Return the ticks that an edit list plays; an edit from -1 is a pause."""
    (count,) = struct.unpack_from(">I", content, 4)
    layout, size = (">Qq", 20) if content[0] == 1 else (">Ii", 12)
    edits = [struct.unpack_from(layout, content, 8 + size * index) for index in range(min(count, len(content) // size))]
    return sum(ticks for ticks, begin in edits if begin >= 0)
