"""What is asked of a known dataset: where its own files lie, how they are fetched, how they are read."""

from pathlib import Path
from typing import Protocol, TypeAlias

from purify_toolkit.data.splits import Split

Parts: TypeAlias = tuple[Split, Split, Split]  # train, validation, test


class Source(Protocol):
    """One dataset in the format in which its makers publish it."""

    @property
    def title(self) -> str:
        """What people call it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its images as tensors."""

    @property
    def files(self) -> str:
        """What a folder must hold, in words, for `find` to find it."""

    def find(self, folder: Path) -> Path | None:
        """Where in `folder` (itself, or where torchvision puts them) the files lie; None where one is missing."""

    def fetch(self, folder: Path) -> None:
        """Let torchvision download into `folder` what is not there; it raises many things where it cannot."""

    def read(self, found: Path, *, validation_size: int) -> Parts:
        """The images in `found`, which came from `find`; InputError where a file is damaged."""
