"""A page as one HTML file: styles and pictures inside, no script, and a policy that forbids to load anything."""

import base64
import io
from importlib.resources import files
from itertools import groupby
from xml.etree.ElementTree import Element, tostring

from PIL import Image

from purify_edge.check.page.document import (
    Block,
    Bullets,
    Document,
    Figure,
    Group,
    Pictures,
    Plots,
    Row,
    Section,
    Table,
    Text,
)
from purify_edge.check.page.element import element as e
from purify_edge.check.page.subject import Example, Picture
from purify_edge.check.page.words import Estimate

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html_of(document: Document) -> str:
    """The page as HTML."""
    state = "passed" if document.passed else "failed"
    head = e(
        "head",
        e("meta", charset="utf-8"),
        e("meta", **{"http-equiv": "Content-Security-Policy"}, content=POLICY),
        e("meta", name="viewport", content="width=device-width, initial-scale=1"),
        e("meta", name="color-scheme", content="light dark"),
        e("title", f"{document.verdict}: {document.title}"),
        e("style", (files("purify_edge.check.page") / "page.css").read_text("utf-8")),
    )
    header = e(
        "header",
        e("h1", document.title),
        e("p", document.subtitle, class_="subtitle"),
        e(
            "p",
            e("strong", f"{'✓' if document.passed else '✗'} {document.verdict}"),
            " ",
            e("span", document.summary),
            class_=f"verdict {state}",
            role="status",
        ),
        *([e("dl", *map(_figure, document.figures), class_="figures")] if document.figures else []),
        e("p", document.footer, class_="caveat"),
    )
    main = e("main", header, *map(_section, document.sections))
    page = e("html", head, e("body", main), lang="en")
    return f"<!DOCTYPE html>\n{tostring(page, encoding='unicode', method='html')}\n"


def _figure(figure: Figure) -> Element:
    return e("div", e("dt", figure.name), e("dd", e("b", figure.value), e("small", figure.note)))


def _section(section: Section) -> Element:
    """Open tables that follow one another stand side by side where there is room."""
    parts: list[Element] = []
    for together, blocks in groupby(section.blocks, key=lambda block: isinstance(block, Table) and not block.folded):
        made = map(_block, blocks)
        parts += [e("div", *made, class_="tables")] if together else made
    return e("section", e("h2", section.title), *parts)


def _block(block: Block) -> Element:
    if isinstance(block, Text):
        return e("p", block.text)
    if isinstance(block, Bullets):
        return e("ul", *(e("li", e("strong", term), ": ", said) for term, said in block.items))
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Plots):
        return _plots(block)
    return _pictures(block)


def _table(table: Table) -> Element:
    width = len(table.columns)
    header = [e("th", name, scope="col", class_=_kind(table, index)) for index, name in enumerate(table.columns)]
    heads = [e("thead", e("tr", *header))] if any(table.columns) else []
    content = e("table", e("caption", table.caption), *heads, *(_group(table, group, width) for group in table.groups))
    scrolled = e("div", content, class_="scroll", tabindex=0, role="region", aria_label=table.caption)
    return e("details", e("summary", table.caption), scrolled) if table.folded else scrolled


def _kind(table: Table, index: int) -> str:
    return "text" if index < table.text_columns else "number"


def _group(table: Table, group: Group, width: int) -> Element:
    title = [e("tr", e("th", group.title, scope="rowgroup", colspan=width), class_="group")] if group.title else []
    return e("tbody", *title, *(_row(table, row) for row in group.rows))


def _row(table: Table, row: Row) -> Element:
    first, *others = row.cells
    cells = [e("td", *_cell(cell), class_=_kind(table, index)) for index, cell in enumerate(others, start=1)]
    mark = "✗\N{NO-BREAK SPACE}" if row.broken else ""
    head = e("th", f"{mark}{first}", scope="row", class_="text")
    return e("tr", head, *cells, class_="broken" if row.broken else "")


def _cell(cell: str | Estimate) -> list[str | Element]:
    return [cell.figure, " ", e("small", cell.bounds)] if isinstance(cell, Estimate) else [cell]


def _plots(block: Plots) -> Element:
    figures = []
    for plot in block.plots:
        plot.svg.attrib.pop("aria-hidden", None)
        plot.svg.set("role", "img")
        plot.svg.set("aria-label", plot.summary)
        figures.append(e("figure", e("figcaption", plot.title), plot.svg))
    return e("div", e("div", *figures, class_="plots"), e("p", block.key, class_="key"))


def _pictures(block: Pictures) -> Element:
    return e("div", *map(_example, block.examples), class_="examples")


def _example(example: Example) -> Element:
    caption = e("figcaption", f"{example.number}. ", e("bdi", example.label))
    return e("figure", caption, e("div", *map(_picture, example.pictures), class_="three"))


def _picture(picture: Picture) -> Element:
    verdict = "right" if picture.right else "wrong"
    height, width = picture.image.shape[:2]
    return e(
        "div",
        e("span", picture.title, class_="kind"),
        e(
            "img",
            src=_data_uri(picture),
            width=width,
            height=height,
            alt=f"{picture.title} image, called {picture.word}, which is {verdict}",
        ),
        e("span", f"{'✓' if picture.right else '✗'} ", e("bdi", picture.word), class_=f"word {verdict}"),
        e("span", f"{100 * picture.probability:.0f}%", class_="probability"),
    )


def _data_uri(picture: Picture) -> str:
    image = picture.image
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
