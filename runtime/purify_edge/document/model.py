"""The parts of a document: plain text throughout, which the renderers escape. Nothing here draws or prints."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Estimate:
    """A number and the bounds of its interval, as the cell of a table."""

    number: str
    bounds: str

    def __str__(self) -> str:
        return f"{self.number} ({self.bounds})"


@dataclass(frozen=True)
class TableRow:
    """The cells of a row, the row's name first; `broken` marks a limit that does not hold."""

    cells: tuple[str | Estimate, ...]
    broken: bool = False


@dataclass(frozen=True)
class RowGroup:
    """Rows under a title of their own; an empty title is not shown."""

    title: str
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class Table:
    """Cells in columns."""

    caption: str  # what the table shows, with n and units
    columns: tuple[str, ...]  # the header of each
    groups: tuple[RowGroup, ...]
    text_columns: int = 1  # so many from the left hold text, the others numbers
    folded: bool = False  # a page shows the caption until the reader opens the table; a terminal leaves it out


def table(
    caption: str,
    columns: Iterable[str],
    rows: Iterable[TableRow | Iterable[str | Estimate]],
    *,
    text_columns: int = 1,
    folded: bool = False,
) -> Table:
    """Return a table without groups; a row may be given by its cells alone."""
    made = tuple(row if isinstance(row, TableRow) else TableRow(tuple(row)) for row in rows)
    return Table(caption, tuple(columns), (RowGroup("", made),), text_columns, folded)


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list, each item a term and what there is to say about it."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Plot:
    """A plot as SVG; `summary` says the same as text."""

    title: str
    svg: Element
    summary: str


@dataclass(frozen=True)
class Plots:
    """Plots that are read beside each other, how to read them, and the table of the numbers that they show."""

    key: str
    plots: tuple[Plot, ...]
    numbers: Table


@dataclass(frozen=True)
class Picture:
    """An image, uint8 `[H, W, C]`, and the class that was named for it."""

    title: str
    image: "NDArray[Any]"
    word: str
    probability: float
    right: bool


@dataclass(frozen=True)
class Example:
    """The pictures of one image: its number, its true class, and the stages that it went through."""

    number: int
    label: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Examples:
    """Examples that have the same stages."""

    examples: tuple[Example, ...]


Block = Paragraph | Bullets | Table | Plots | Examples


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str  # the heading
    blocks: tuple[Block, ...]  # what stands below it
    intro: str = ""  # how to read the section; a terminal leaves it out
    for_pages: bool = False  # a terminal leaves the whole section out


@dataclass(frozen=True)
class KeyFigure:
    """One of the few figures at the top: its name, the value with its unit, and what was measured."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Verdict:
    """Whether the limits hold, and which do not, in a sentence."""

    passed: bool
    summary: str
    of: str = ""  # what passes, such as parity: no more than that

    @property
    def word(self) -> str:
        """Return the verdict, and of a pass what it is of."""
        return f"{self.of} passed".strip().capitalize() if self.passed else "Failed"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A report: a verdict, a few figures, and sections."""

    title: str
    sections: tuple[Section, ...]
    subtitle: str = ""
    verdict: Verdict | None = None
    figures: tuple[KeyFigure, ...] = ()
    caveat: str = ""
