"""The figures in the documents are those that were measured."""

import json
from pathlib import Path

import pytest

from purify_toolkit.pretrained import FOLDER

REPOSITORY = Path(__file__).parent.parent.parent
METRICS = json.loads((FOLDER / "fashion-mnist" / "metrics.json").read_text())


def cell(row: dict[str, object]) -> str:
    """An accuracy as the documents write it."""
    low, high = row["ci95"]  # type: ignore[misc]
    return f"{100 * row['accuracy']:.2f}% ({100 * low:.2f} to {100 * high:.2f})"  # type: ignore[operator]


@pytest.mark.parametrize("document", ["README.md", "docs/results/fashion-mnist.md"])
def test_accuracies_and_intervals(document: str) -> None:
    text = (REPOSITORY / document).read_text()
    rows = {(row["threat"], row["defended"]): cell(row) for row in METRICS["rows"]}
    for line in (
        f"| clean | {rows['clean', False]} | {rows['clean', True]} |",
        f"| grey-box | {rows['grey-box', False]} | {rows['grey-box', True]} |",
        f"| white-box | | {rows['white-box', True]} |",
    ):
        assert line in text


def test_versions_commit_and_attack() -> None:
    text = (REPOSITORY / "docs/results/fashion-mnist.md").read_text()
    run = json.loads((FOLDER / "fashion-mnist" / "run.json").read_text())
    attacks = {row["attack"] for row in METRICS["rows"]} - {"none"}
    for fact in (
        *attacks,
        run["commit"],
        f"seed {run['seed']}",
        f"torch {METRICS['evaluated_with']['versions']['torch']}",
    ):
        assert str(fact) in text
