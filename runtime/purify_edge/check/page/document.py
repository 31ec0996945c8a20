"""What a page consists of, before it becomes HTML or Markdown: plain text throughout, which the formats escape."""

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from purify_edge.check.page.subject import Example
from purify_edge.check.page.words import Estimate


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of a term and what there is to say of it."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Row:
    """The cells of a row, the row's name first; `broken` where they tell of a limit that does not hold."""

    cells: tuple[str | Estimate, ...]
    broken: bool = False


@dataclass(frozen=True)
class Group:
    """Rows under a title of their own; an empty title is not shown."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """Cells in columns.

    Attributes:
        caption: what the table tells, with n and units.
        columns: a header each.
        groups: the rows.
        text_columns: so many columns from the left hold text, the others numbers.
        folded: a reader opens it if he wants to.
    """

    caption: str
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    text_columns: int = 1
    folded: bool = False


@dataclass(frozen=True)
class Plot:
    """A picture of what a table of the same section says; `summary` for those who do not see it."""

    title: str
    svg: Element
    summary: str


@dataclass(frozen=True)
class Plots:
    """Plots that are read beside each other, and how to read them."""

    key: str
    plots: tuple[Plot, ...]


@dataclass(frozen=True)
class Pictures:
    """Images, each clean, adversarial and purified."""

    examples: tuple[Example, ...]


Block = Text | Bullets | Table | Plots | Pictures


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Figure:
    """One of the few figures that stand at the top: its name, the value with unit, and what it is of."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Document:
    """A page: the verdict, a few figures, and sections."""

    title: str
    subtitle: str
    passed: bool
    verdict: str
    summary: str
    figures: tuple[Figure, ...]
    sections: tuple[Section, ...]
    footer: str


def table(caption: str, columns: tuple[str, ...], rows: "tuple[Row, ...]", **options: int) -> Table:
    """A table without groups."""
    return Table(caption, columns, (Group("", rows),), **options)  # type: ignore[arg-type]
