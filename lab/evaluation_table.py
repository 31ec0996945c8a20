"""Print the tables of an evaluation.json as Markdown, for docs/results.

Usage: python -m lab.evaluation_table toolkit/pairs/purify_pairs/NAME/evaluation/evaluation.json
"""

import json
from pathlib import Path
from typing import Any

from lab.studies.common import study_parser
from purify_edge.document.markdown import markdown_table
from purify_toolkit.evaluate.tables import gate_table, headline_table, row_table


def markdown_tables(content: dict[str, Any]) -> list[str]:
    """Return headlines, rows and gates as Markdown."""
    spared = content.get("spared", {})
    tables = (
        headline_table(content["headlines"], spared=spared.get("headlines")),
        row_table(content["rows"], spared=spared.get("rows")),
        gate_table(content["gates"]),
    )
    return list(map(markdown_table, tables))


def main() -> None:
    """Print the three tables."""
    parser = study_parser(__doc__)
    parser.add_argument("report", type=Path)
    print("\n\n".join(markdown_tables(json.loads(parser.parse_args().report.read_text()))))


if __name__ == "__main__":
    main()
