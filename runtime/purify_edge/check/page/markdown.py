"""A page as Markdown, as GitHub and others show it; what HTML shows as plots stands in the tables."""

import re
from collections.abc import Iterator

from purify_edge.check.page.document import Block, Bullets, Document, Pictures, Section, Table, Text
from purify_edge.check.page.element import clean

MARKS = re.compile(r"([\\`*_{}\[\]<>#|~&!@$])")


def markdown_of(document: Document) -> str:
    """The page as Markdown."""
    sign = "✓" if document.passed else "✗"
    figures = [
        f"- {_text(figure.name)}: **{_text(figure.value)}** ({_text(figure.note)})" for figure in document.figures
    ]
    parts = [
        f"# {_text(document.title)}",
        f"**{sign} {document.verdict}.** {_text(document.summary)}",
        _text(document.subtitle),
        *(["\n".join(figures)] if figures else []),
        _text(document.footer),
        *(part for section in document.sections for part in _section(section)),
    ]
    return "\n\n".join(parts) + "\n"


def _text(content: str) -> str:
    """On one line, with whatever Markdown or HTML would take for its own escaped."""
    return MARKS.sub(r"\\\1", " ".join(clean(content).split()))


def _section(section: Section) -> Iterator[str]:
    yield f"## {_text(section.title)}"
    for block in section.blocks:
        yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Text):
        yield _text(block.text)
    elif isinstance(block, Bullets):
        yield "\n".join(f"- **{_text(term)}**: {_text(said)}" for term, said in block.items)
    elif isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, Pictures):
        yield from _pictures(block)


def _table(table: Table) -> Iterator[str]:
    yield f"{_text(table.caption)}:"
    rules = ["---" if index < table.text_columns else "---:" for index in range(len(table.columns))]
    lines = [_line(list(map(_text, table.columns))), _line(rules)]
    for group in table.groups:
        if group.title:
            lines.append(_line([f"**{_text(group.title)}**", *[""] * (len(table.columns) - 1)]))
        for row in group.rows:
            first, *others = (_text(str(cell)) for cell in row.cells)
            lines.append(_line([f"✗ {first}" if row.broken else first, *others]))
    yield "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _pictures(pictures: Pictures) -> Iterator[str]:
    titles = [picture.title for picture in pictures.examples[0].pictures]
    lines = [_line(["image", "class", *titles]), _line(["---:", "---", *["---"] * len(titles)])]
    for example in pictures.examples:
        words = [
            f"{'✓' if picture.right else '✗'} {_text(picture.word)} ({100 * picture.probability:.0f}%)"
            for picture in example.pictures
        ]
        lines.append(_line([str(example.number), _text(example.label), *words]))
    yield "\n".join(lines)
