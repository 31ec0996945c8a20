"""Images that can be read, one by one, wherever they come from."""

import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError
from purify_edge.images.walking import PassedOver

Key = tuple[str, int | None, float | None]


@dataclass(slots=True)
class Item:
    """One image that can be read.

    `read` gives uint8 `[H, W, C]` of a contract, or raises InputError; it is called in any thread.
    """

    file: str  # what users call it
    place: str  # where its purified image belongs in a folder of such, with forward slashes and no suffix
    read: Callable[[InputContract], NDArray[np.uint8]]
    frame: int | None = None  # its number in a video or stream, from 0
    time_s: float | None = None  # from the start of a video; of a stream, since 1970
    picture: NDArray[np.uint8] | None = None  # if requested, a video's frame as it came, `[height, width, 3]`, BGR
    error: InputError | None = None  # why it cannot be read, where that is known before it is tried

    @property
    def key(self) -> Key:
        """Return what tells it from other images; of a stream, from those of other days too."""
        return self.file, self.frame, self.time_s


class Source(ABC):
    """Where images come from."""

    live = False  # they come at a pace of their own, without end
    passed = PassedOver()  # what was left out, once all items were taken

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Yield its images in an order that is the same each time, read when requested; broken ones are items too."""

    def count(self) -> int | None:
        """Return how many images there are, roughly for a video; None where that cannot be known."""
        return sum(1 for _ in self.items())

    def stop(self) -> None:  # noqa: B027  # what is no camera needs none
        """Let the items of a camera end, as if it had; a frame that waits is dropped.

        It may be called in any thread, or while a signal is handled.
        """


def broken(file: str, error: InputError) -> Item:
    """Return an item that cannot be read."""

    def read(contract: InputContract) -> NDArray[np.uint8]:
        raise error

    return Item(file, "", read, error=error)


class Shard(Source):
    """One of `count` parts of another source; a file is always in the same part, regardless of other files.

    The file's name, as users call it, decides which part; the frames of a video stay together.
    """

    def __init__(self, source: Source, index: int, count: int) -> None:
        self._source, self._index, self._count = source, index, count
        self.live = source.live

    def items(self) -> Iterator[Item]:
        """Yield the items of this part, in the source's order; a video of another part is not read on."""
        for item in self._source.items():
            if zlib.crc32(os.fsencode(item.file)) % self._count == self._index:
                yield item
            elif item.frame is not None and not self.live:
                return
        self.passed = self._source.passed

    def count(self) -> int | None:
        """Return how many images there are in this part; None where going through their names does not show it."""
        by_names = type(self._source).count is Source.count
        return super().count() if by_names else None


@dataclass(frozen=True)
class Broken(Source):
    """A name that names nothing, as one image that cannot be read."""

    name: str
    error: InputError

    def items(self) -> Iterator[Item]:
        """Yield the broken item."""
        yield broken(self.name, self.error)
