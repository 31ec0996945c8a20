"""An evaluation as tables, made from what evaluation.json holds: for a terminal and for the documents."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from purify_edge.document.model import Document, Paragraph, Section, Table, TableRow, Verdict, table
from purify_edge.document.terminal import print_document
from purify_edge.document.wording import plural
from purify_toolkit.evaluate.accuracy import AGREEMENT, EvaluationRow
from purify_toolkit.evaluate.report import EvaluationReport

Entry = dict[str, Any]
"""A row, a headline or a gate, as evaluation.json has it."""
BOTH = ("classifier alone", "purifier and classifier")
RULE = "with --spare-clean"
BY_CONSTRUCTION = f"Figures are the {AGREEMENT}: there were no labels. So clean, the classifier alone has 100%."
VERDICTS = {True: "passed", False: "failed", None: "not checked"}


def print_rows(rows: Sequence[EvaluationRow], *, as_json: bool, agreement: bool = False) -> None:
    """Print accuracies with n and 95% intervals, as a table or as JSON; `agreement` is what they are without labels."""
    entries = [row.as_dict() for row in rows]
    if as_json:
        click.echo(json.dumps(entries, indent=2))
    else:
        said = (Paragraph(BY_CONSTRUCTION),) if agreement else ()
        print_document(Document(title="", sections=(Section("", (row_table(entries, agreement), *said)),)))


def print_report(report: EvaluationReport, *, as_json: bool) -> None:
    """Print headlines, the purifier's tax, all rows and the gates; or what evaluation.json holds."""
    content = report.as_dict()
    if as_json:
        click.echo(json.dumps(content, indent=2))
    else:
        print_document(document_of(content))


def document_of(content: Entry) -> Document:
    """Return what evaluation.json holds as a document."""
    agreement = content.get("measures") == AGREEMENT
    tax, failed = content["tax"], sum(gate["passed"] is False for gate in content["gates"])
    costs = (
        f"The purifier costs {tax['points']:.2f} points on {tax['n']} clean images "
        f"({100 * tax['undefended']:.2f}% to {100 * tax['defended']:.2f}%, McNemar's p = {tax['p']:.2g})."
    )
    spared = content.get("spared")
    if spared:
        costs += f" With --spare-clean it costs {spared['tax']['points']:.2f} (p = {spared['tax']['p']:.2g})."
        costs += f" {spared['harm']}." if spared["harm"] else ""
    summary = f"{plural(failed, 'sanity gate')} failed: do not trust the figures" if failed else "no sanity gate failed"
    return Document(
        title=f"{'Agreement' if agreement else 'Accuracy'} of the classifier alone and behind the purifier, with 95% "
        "intervals",
        sections=(
            Section(
                "Worst case of each threat, image by image",
                (headline_table(content["headlines"], agreement, spared and spared["headlines"]),),
            ),
            Section("What the purifier costs", (Paragraph(f"{costs} {BY_CONSTRUCTION}" if agreement else costs),)),
            Section("Every attack", (row_table(content["rows"], agreement, spared and spared["rows"]),)),
            Section("Is this evaluation sound?", (gate_table(content["gates"]),)),
        ),
        verdict=Verdict(content["passed"], summary, of="gates"),
    )


def headline_table(headlines: Sequence[Entry], agreement: bool = False, spared: Sequence[Entry] | None = None) -> Table:
    """Return a row for each threat and size: the worst case over its attacks; `spared` are those of the rule."""
    rows = [
        (
            entry["threat"],
            f"{entry['norm']} {entry['size']:.4g}" if entry["norm"] else "",
            ", ".join(name.partition(":")[2] for name in entry["attacks"]),
            f"{entry['n']:,}",
            *accuracies,
        )
        for entry, accuracies in _beside(headlines, spared, "threat", "norm", "size", "n")
    ]
    caption = f"{_right(agreement)} under all attacks together"
    return _text_table(caption, ("threat", "size", "attacks", "n", *_columns(spared)), rows)


def row_table(entries: Sequence[Entry], agreement: bool = False, spared: Sequence[Entry] | None = None) -> Table:
    """Return a row for each attack; `spared` are those of the rule."""
    named = ("threat", "name") if all("name" in entry for entry in entries) else ("threat", "attack")
    rows = [
        (entry["threat"], entry["attack"], f"{entry['n']:,}", *accuracies)
        for entry, accuracies in _beside(entries, spared, *named)
    ]
    return _text_table(f"{_right(agreement)} under each attack", ("threat", "attack", "n", *_columns(spared)), rows)


def _columns(spared: Sequence[Entry] | None) -> tuple[str, ...]:
    return BOTH if spared is None else (*BOTH, RULE)


def _right(agreement: bool) -> str:
    return AGREEMENT if agreement else "right"


def gate_table(gates: Sequence[Entry]) -> Table:
    """Return a row for each sanity gate."""
    rows = [
        TableRow((gate["name"], VERDICTS[gate["passed"]], gate["explanation"]), broken=gate["passed"] is False)
        for gate in gates
    ]
    return _text_table("sanity gates", ("sanity gate", "verdict", "why"), rows)


def _beside(
    entries: Sequence[Entry], spared: Sequence[Entry] | None, *keys: str
) -> Iterator[tuple[Entry, tuple[str, ...]]]:
    """Yield the entries behind the purifier, with the accuracies: classifier alone, if there; purified; of the rule."""

    def by_keys(some: Iterable[Entry]) -> dict[tuple[Any, ...], str]:
        return {tuple(entry[key] for key in keys): _accuracy(entry) for entry in some}

    alone = by_keys(entry for entry in entries if not entry["defended"])
    further = [alone] if spared is None else [alone, by_keys(spared)]
    for entry in entries:
        if entry["defended"]:
            first, *last = (of.get(tuple(entry[key] for key in keys), "") for of in further)
            yield entry, (first, _accuracy(entry), *last)


def _text_table(caption: str, columns: tuple[str, ...], rows: Sequence[TableRow | tuple[str, ...]]) -> Table:
    return table(caption, columns, rows, text_columns=len(columns))


def _accuracy(entry: Entry) -> str:
    low, high = entry["ci95"]
    return f"{100 * entry['accuracy']:.2f}% ({100 * low:.2f} to {100 * high:.2f})"
