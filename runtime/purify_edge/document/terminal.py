"""A document as text on a terminal, the verdict last, where the reader looks first."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from purify_edge.document.element import clean
from purify_edge.document.model import Block, Bullets, Document, Estimate, Examples, Paragraph, Plots, Table, Verdict

FILE_WIDTH = 120
"""Columns where the output is not a terminal."""


def print_document(document: Document, console: Console | None = None) -> None:
    """Print the sections, the figures and the verdict; what is for pages only, and what they fold, is left out."""
    console = console or _standard_output()
    if document.title:
        console.print(Text(clean(document.title), style="bold"))
    if document.subtitle:
        console.print(Text(f"{clean(document.subtitle)}\n", style="dim"))
    for section in document.sections:
        blocks = [block for block in section.blocks if _is_shown(block)]
        if section.for_pages or not blocks:
            continue
        if section.title:
            console.print(Text(clean(section.title), style="bold"))
        for block in blocks:
            _print_block(block, console)
            console.print()
    for figure in document.figures:
        console.print(Text(clean(f"{figure.name}: {figure.value} ({figure.note})")))
    if document.caveat:
        console.print(Text(clean(document.caveat), style="dim"))
    if document.verdict:
        console.print(_verdict(document.verdict))


def _standard_output() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


def _is_shown(block: Block) -> bool:
    return not isinstance(block, Examples) and not (isinstance(block, Table) and block.folded)


def _print_block(block: Block, console: Console) -> None:
    if isinstance(block, Paragraph):
        console.print(Text(clean(block.text)))
    elif isinstance(block, Bullets):
        for term, said in block.items:
            console.print(Text.assemble((clean(term), "bold"), f": {clean(said)}"))
    elif isinstance(block, Plots | Table):
        table = block.numbers if isinstance(block, Plots) else block
        console.print(Text(f"{clean(table.caption)}\n", style="italic"), _table(table), sep="\n")


def _table(table: Table) -> RichTable:
    made = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, show_header=any(table.columns))
    for index, name in enumerate(table.columns):
        is_text = index < table.text_columns
        made.add_column(Text(clean(name)), justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for group in table.groups:
        if group.title:
            made.add_row(Text(clean(group.title), style="bold"))
        for row in group.rows:
            first, *others = map(_cell, row.cells)
            mark = "✗ " if row.broken else ""
            made.add_row(Text(f"{mark}{first}"), *map(Text, others), style="red" if row.broken else "")
    return made


def _cell(cell: str | Estimate) -> str:
    return clean(str(cell))


def _verdict(verdict: Verdict) -> Text:
    word, style = (verdict.word.lower(), "bold green") if verdict.passed else ("FAILED", "bold red")
    return Text.assemble((word, style), f": {verdict.summary}")
