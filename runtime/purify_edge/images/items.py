"""Images that can be read, one by one, wherever they come from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError

Key = tuple[str, int | None, float | None]


@dataclass(slots=True)
class Item:
    """One image that can be read.

    Attributes:
        file: what users call it.
        place: where its purified image belongs in a folder of such, with forward slashes and no suffix.
        read: gives uint8 `[H, W, C]` of a contract, or raises InputError; called in any thread.
        frame: its number in a video or stream, from 0.
        time_s: seconds from the start of a video; of a stream, since 1970.
        picture: a video's frame as it came, uint8 `[height, width, 3]`, RGB; None unless it was asked for.
    """

    file: str
    place: str
    read: Callable[[InputContract], NDArray[np.uint8]]
    frame: int | None = None
    time_s: float | None = None
    picture: NDArray[np.uint8] | None = None

    @property
    def key(self) -> Key:
        """Return what tells it from other images; of a stream, from those of other days too."""
        return self.file, self.frame, self.time_s


def broken(file: str, error: InputError) -> Item:
    """Return an item that cannot be read."""

    def read(contract: InputContract) -> NDArray[np.uint8]:
        raise error

    return Item(file, "", read)
