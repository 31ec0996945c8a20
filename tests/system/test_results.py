"""The figures in the documents are those that were measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from lab.evaluation_table import markdown_tables
from lab.speed.document import bars_table, contestants_table, read_bench
from lab.studies import ablation_table, across_classifiers, spared_answers, training_speed
from purify_edge.document.markdown import markdown_table
from purify_edge.files import file_sha256
from purify_toolkit.runs.pretrained import FOLDER, open_run, pretrained_names

REPOSITORY = Path(__file__).parent.parent.parent


def metrics_of(name: str) -> dict[str, Any]:
    """A pair's metrics.json."""
    metrics: dict[str, Any] = json.loads((FOLDER / name / "metrics.json").read_text())
    return metrics


def evaluation_of(name: str) -> dict[str, Any]:
    """A pair's evaluation.json."""
    report: dict[str, Any] = json.loads((FOLDER / name / "evaluation" / "evaluation.json").read_text())
    return report


def cell(row: dict[str, object]) -> str:
    """An accuracy as the documents write it."""
    low, high = row["ci95"]  # type: ignore[misc]
    return f"{100 * row['accuracy']:.2f}% ({100 * low:.2f} to {100 * high:.2f})"  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "document"),
    [("fashion-mnist", "README.md"), *((name, f"docs/results/{name}.md") for name in pretrained_names())],
)
def test_accuracies_and_intervals(name: str, document: str) -> None:
    text = (REPOSITORY / document).read_text()
    rows = {(row["threat"], row["defended"]): cell(row) for row in metrics_of(name)["rows"]}
    for line in (
        f"| clean | {rows['clean', False]} | {rows['clean', True]} |",
        f"| grey-box | {rows['grey-box', False]} | {rows['grey-box', True]} |",
        f"| white-box | | {rows['white-box', True]} |",
    ):
        assert line in text


@pytest.mark.parametrize("name", pretrained_names())
def test_the_readme_has_a_line_a_pair(name: str) -> None:
    rows = {(row["threat"], row["defended"]): row for row in metrics_of(name)["rows"]}
    shown = [("clean", False), ("clean", True), ("grey-box", True), ("white-box", True)]
    cells = [f"`{name}`", f"{rows['clean', True]['n']:,}", *(f"{100 * rows[key]['accuracy']:.1f}%" for key in shown)]
    assert f"| {' | '.join(cells)} |" in (REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize("name", pretrained_names())
def test_versions_commit_and_attack(name: str) -> None:
    text = (REPOSITORY / "docs" / "results" / f"{name}.md").read_text()
    run, metrics = json.loads((FOLDER / name / "run.json").read_text()), metrics_of(name)
    attacks = {row["attack"] for row in metrics["rows"]} - {"none"}
    for fact in (
        *attacks,
        run["commit"],
        f"seed {run['seed']}",
        f"torch {metrics['evaluated_with']['versions']['torch']}",
    ):
        assert str(fact) in text


@pytest.mark.parametrize(
    "name", sorted(path.parent.parent.name for path in FOLDER.glob("*/evaluation/evaluation.json"))
)
def test_the_tables_by_threat_are_those_of_the_report(name: str) -> None:
    content = evaluation_of(name)
    text = (REPOSITORY / "docs" / "results" / f"{name}.md").read_text()
    for part in [*markdown_tables(content), content["evaluated_with"]["commit"]]:
        assert part in text
    assert not content["evaluated_with"]["commit"].endswith("dirty")
    for network, digest in content["weights_sha256"].items():
        assert file_sha256(open_run(name).weights_path(network)) == digest


@pytest.mark.parametrize(
    ("name", "n", "least", "words"),
    [("fashion-mnist", 10_000, 0.85, "{}"), ("cifar10", 1000, 0.73, "{} in the grey box behind `cifar10`")],
)
def test_the_readme_tells_of_the_worst_grey_box_attack(name: str, n: int, least: float, words: str) -> None:
    (worst,) = (
        line
        for line in evaluation_of(name)["headlines"]
        if (line["threat"], line["defended"], line["norm"], line["n"]) == ("grey-box", True, "Linf", n)
    )
    assert worst["attacks"] == ["grey-box:fgsm", "grey-box:pgd", "grey-box:pgd-margin"]
    assert worst["accuracy"] >= least
    text = " ".join((REPOSITORY / "README.md").read_text().split()).lower()
    share = f"{100 * worst['accuracy']:.1f}% of {worst['n']:,} images stay right"
    assert words.format(f"under fgsm and two kinds of pgd together {share}") in text


@pytest.mark.parametrize(
    ("name", "n", "words"),
    [
        ("fashion-mnist", 1000, "purifier too: AutoAttack leaves {accuracy} of {n} images."),
        ("fashion-mnist-adaptive", 1000, "AutoAttack leaves {accuracy} of {n} images to `fashion-mnist-adaptive`"),
        ("cifar10-adaptive", 100, "and {accuracy} of {n} to `cifar10-adaptive`"),
    ],
)
def test_the_readme_tells_what_autoattack_leaves(name: str, n: int, words: str) -> None:
    (row,) = (row for row in evaluation_of(name)["rows"] if row["name"] == "white-box:autoattack")
    assert row["n"] >= n
    text = " ".join((REPOSITORY / "README.md").read_text().split())
    assert words.format(accuracy=f"{100 * row['accuracy']:.1f}%", n=f"{row['n']:,}") in text


def test_the_training_speeds_are_those_of_the_report() -> None:
    (path,) = REPOSITORY.glob("docs/results/studies/training-speed-*.json")
    content = json.loads(path.read_text())
    text = (REPOSITORY / "docs/results/training-speed.md").read_text()
    for line in training_speed.table(content, content["machine"]).splitlines():
        assert line in text
    assert f"(studies/{path.name})" in text
    assert not content["written_with"]["commit"].endswith("dirty")
    assert content["stages"]["together"]["ratio"] >= 2


@pytest.mark.parametrize(
    "report", sorted(REPOSITORY.glob("docs/results/studies/spared-*.json")), ids=lambda path: path.stem
)
def test_the_spared_answers_are_those_of_the_reports(report: Path) -> None:
    content = json.loads(report.read_text())
    text = (REPOSITORY / "docs/results/spared.md").read_text()
    for part in (spared_answers.table(content["rows"]), content["written_with"]["commit"], f"(studies/{report.name})"):
        assert part in text
    assert not content["written_with"]["commit"].endswith("dirty")


@pytest.mark.parametrize(
    "report", sorted(REPOSITORY.glob("docs/results/studies/ablation-*.json")), ids=lambda path: path.stem
)
def test_the_ablations_are_those_of_the_reports(report: Path) -> None:
    content = json.loads(report.read_text())
    text = (REPOSITORY / "docs/results/ablation.md").read_text()
    for line in [*ablation_table.table(content).splitlines(), content["written_with"]["commit"]]:
        assert line in text
    assert f"(studies/{report.name})" in text
    assert not content["written_with"]["commit"].endswith("dirty")


def test_the_table_across_classifiers_is_that_of_the_report() -> None:
    content = json.loads((REPOSITORY / "docs/results/studies/across-fashion-mnist.json").read_text())
    text = (REPOSITORY / "docs/results/across.md").read_text()
    for line in [*across_classifiers.table(content).splitlines(), content["written_with"]["commit"]]:
        assert line in text
    assert not content["written_with"]["commit"].endswith("dirty")
    of = {found["name"]: {row["threat"] for row in found["rows"]} for found in content["classifiers"]}
    assert across_classifiers.ITS_OWN in of
    assert len(of) >= 4
    assert set(map(frozenset, of.values())) == {frozenset({"clean", "grey-box"})}


@pytest.mark.parametrize(
    "report", sorted(REPOSITORY.glob("docs/results/studies/runtime-*.json")), ids=lambda path: path.stem
)
def test_the_tables_of_speed_are_those_of_the_report(report: Path) -> None:
    bench = read_bench(report)
    text = (REPOSITORY / "docs/results/runtime-tables.md").read_text()
    assert f"(studies/{report.name})" in text
    assert str(bench.settings) in text
    assert markdown_table(contestants_table(bench)) in text
    if bench.process:  # the others are shown for their contestants alone
        assert markdown_table(bars_table(bench.bars)) in text
