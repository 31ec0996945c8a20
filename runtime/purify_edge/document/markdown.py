"""A document as Markdown, as GitHub and others show it; plots are left out, for tables hold their numbers."""

import re
from collections.abc import Iterable, Iterator

from purify_edge.document.element import clean
from purify_edge.document.model import Block, Bullets, Document, Examples, Paragraph, Plots, Section, Table, TableRow

MARKS = re.compile(r"([\\`*_{}\[\]<>#|~&!@$])")


def render_markdown(document: Document) -> str:
    """Return the document as Markdown."""
    return "\n\n".join(filter(None, _parts(document))) + "\n"


def _parts(document: Document) -> Iterator[str]:
    yield f"# {_text(document.title)}"
    if document.verdict:
        sign = "✓" if document.verdict.passed else "✗"
        yield f"**{sign} {document.verdict.word}.** {_text(document.verdict.summary)}"
    yield _text(document.subtitle)
    yield "\n".join(
        f"- {_text(figure.name)}: **{_text(figure.value)}** ({_text(figure.note)})" for figure in document.figures
    )
    yield _text(document.caveat)
    for section in document.sections:
        yield from _section(section)


def _text(content: str) -> str:
    """Return the content on one line, with all characters escaped that mean something in Markdown or HTML."""
    return MARKS.sub(r"\\\1", " ".join(clean(content).split()))


def _section(section: Section) -> Iterator[str]:
    yield f"## {_text(section.title)}"
    yield _text(section.intro)
    yield from map(_block, section.blocks)


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return _text(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- **{_text(term)}**: {_text(said)}" for term, said in block.items)
    if isinstance(block, Examples):
        return _examples(block)
    table = block.numbers if isinstance(block, Plots) else block
    return f"{_text(table.caption)}:\n\n{markdown_table(table)}"


def markdown_table(table: Table) -> str:
    """Return a table as Markdown, without its caption; no line break at the end."""
    rules = ["---" if index < table.text_columns else "---:" for index in range(len(table.columns))]
    lines = [_line(map(_text, table.columns)), _line(rules)]
    for group in table.groups:
        if group.title:
            lines.append(_line([f"**{_text(group.title)}**", *[""] * (len(table.columns) - 1)]))
        lines += map(_row, group.rows)
    return "\n".join(lines)


def _row(row: TableRow) -> str:
    first, *others = (_text(str(cell)) for cell in row.cells)
    return _line([f"✗ {first}" if row.broken else first, *others])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _examples(block: Examples) -> str:
    titles = [picture.title for picture in block.examples[0].pictures]
    lines = [_line(["image", "class", *titles]), _line(["---:", "---", *["---"] * len(titles)])]
    for example in block.examples:
        words = [
            f"{'✓' if picture.right else '✗'} {_text(picture.word)} ({100 * picture.probability:.0f}%)"
            for picture in example.pictures
        ]
        lines.append(_line([str(example.number), _text(example.label), *words]))
    return "\n".join(lines)
