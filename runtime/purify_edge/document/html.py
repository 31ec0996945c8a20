"""A document as one HTML file: styles and pictures inside, no script, and a policy that forbids loading anything."""

import base64
import io
from importlib.resources import files
from itertools import groupby
from xml.etree.ElementTree import Element, tostring

from purify_edge.document import model
from purify_edge.document.element import element as e

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render_html(document: model.Document) -> str:
    """Return the document as a page that needs no network and runs no script."""
    title = f"{document.verdict.word}: {document.title}" if document.verdict else document.title
    head = e(
        "head",
        e("meta", charset="utf-8"),
        e("meta", **{"http-equiv": "Content-Security-Policy"}, content=POLICY),
        e("meta", name="viewport", content="width=device-width, initial-scale=1"),
        e("meta", name="color-scheme", content="light dark"),
        e("title", title),
        e("style", (files("purify_edge.document") / "page.css").read_text("utf-8")),
    )
    main = e("main", _header(document), *map(_section, document.sections))
    page = e("html", head, e("body", main), lang="en")
    return f"<!DOCTYPE html>\n{tostring(page, encoding='unicode', method='html')}\n"


def _header(document: model.Document) -> Element:
    parts = [e("h1", document.title), e("p", document.subtitle, class_="subtitle")]
    if document.verdict:
        parts.append(_verdict(document.verdict))
    if document.figures:
        parts.append(e("dl", *map(_figure, document.figures), class_="figures"))
    return e("header", *parts, e("p", document.caveat, class_="caveat"))


def _verdict(verdict: model.Verdict) -> Element:
    mark, style = ("✓", "passed") if verdict.passed else ("✗", "failed")
    word = e("strong", f"{mark} {verdict.word}")
    return e("p", word, " ", e("span", verdict.summary), class_=f"verdict {style}", role="status")


def _figure(figure: model.KeyFigure) -> Element:
    return e("div", e("dt", figure.name), e("dd", e("b", figure.value), e("small", figure.note)))


def _section(section: model.Section) -> Element:
    """Return a section; open tables that follow one another stand side by side where there is room."""
    parts = [e("p", section.intro)] if section.intro else []
    for together, blocks in groupby(section.blocks, key=_is_open_table):
        made = [element for block in blocks for element in _block(block)]
        parts += [e("div", *made, class_="tables")] if together else made
    return e("section", e("h2", section.title), *parts)


def _is_open_table(block: model.Block) -> bool:
    return isinstance(block, model.Table) and not block.folded


def _block(block: model.Block) -> list[Element]:
    if isinstance(block, model.Paragraph):
        return [e("p", block.text)]
    if isinstance(block, model.Bullets):
        return [e("ul", *(e("li", e("strong", term), ": ", said) for term, said in block.items))]
    if isinstance(block, model.Table):
        return [_folded(block) if block.folded else _table(block)]
    if isinstance(block, model.Plots):
        return [_plots(block), _folded(block.numbers)]
    return [e("div", *map(_example, block.examples), class_="examples")]


def _folded(table: model.Table) -> Element:
    return e("details", e("summary", table.caption), _table(table))


def _table(table: model.Table) -> Element:
    header = [e("th", name, scope="col", class_=_kind(table, index)) for index, name in enumerate(table.columns)]
    heads = [e("thead", e("tr", *header))] if any(table.columns) else []
    content = e("table", e("caption", table.caption), *heads, *(_group(table, group) for group in table.groups))
    return e("div", content, class_="scroll", tabindex=0, role="region", aria_label=table.caption)


def _kind(table: model.Table, index: int) -> str:
    return "text" if index < table.text_columns else "number"


def _group(table: model.Table, group: model.RowGroup) -> Element:
    name = e("th", group.title, scope="rowgroup", colspan=len(table.columns))
    title = [e("tr", name, class_="group")] if group.title else []
    return e("tbody", *title, *(_row(table, row) for row in group.rows))


def _row(table: model.Table, row: model.TableRow) -> Element:
    first, *others = row.cells
    cells = [e("td", *_cell(cell), class_=_kind(table, index)) for index, cell in enumerate(others, start=1)]
    mark = "✗\N{NO-BREAK SPACE}" if row.broken else ""
    head = e("th", f"{mark}{first}", scope="row", class_="text")
    return e("tr", head, *cells, class_="broken" if row.broken else "")


def _cell(cell: str | model.Estimate) -> list[str | Element]:
    return [cell.number, " ", e("small", cell.bounds)] if isinstance(cell, model.Estimate) else [cell]


def _plots(block: model.Plots) -> Element:
    figures = []
    for plot in block.plots:
        plot.svg.set("role", "img")
        plot.svg.set("aria-label", plot.summary)
        figures.append(e("figure", e("figcaption", plot.title), plot.svg))
    return e("div", e("div", *figures, class_="plots"), e("p", block.key, class_="key"))


def _example(example: model.Example) -> Element:
    caption = e("figcaption", f"{example.number}. ", e("bdi", example.label))
    return e("figure", caption, e("div", *map(_picture, example.pictures), class_="three"))


def _picture(picture: model.Picture) -> Element:
    verdict = "right" if picture.right else "wrong"
    height, width = picture.image.shape[:2]
    said = f"{picture.title} image, called {picture.word}, which is {verdict}"
    return e(
        "div",
        e("span", picture.title, class_="kind"),
        e("img", src=_data_uri(picture), width=width, height=height, alt=said),
        e("span", f"{'✓' if picture.right else '✗'} ", e("bdi", picture.word), class_=f"word {verdict}"),
        e("span", f"{100 * picture.probability:.0f}%", class_="probability"),
    )


def _data_uri(picture: model.Picture) -> str:
    from PIL import Image

    image = picture.image
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
