"""The tables of an evaluation.json as Markdown, for docs/results.

Usage: python -m lab.studies.evaluation_table toolkit/purify_toolkit/pretrained/NAME/evaluation/evaluation.json
"""

import argparse
import json
from pathlib import Path
from typing import Any


def cell(entry: dict[str, Any]) -> str:
    """An accuracy with its interval."""
    low, high = entry["ci95"]
    return f"{100 * entry['accuracy']:.2f}% ({100 * low:.2f} to {100 * high:.2f})"


def headline_table(report: dict[str, Any]) -> list[str]:
    """A line a threat and size: the worst case over its attacks, classifier alone and behind the purifier."""
    lines = ["| threat | size | attacks | n | classifier alone | purifier and classifier |", f"|{' --- |' * 6}"]
    for defended in (entry for entry in report["headlines"] if entry["defended"]):
        key = ("threat", "norm", "size", "n")
        alone = [h for h in report["headlines"] if not h["defended"] and all(h[k] == defended[k] for k in key)]
        size = f"{defended['norm']} {defended['size']:.4g}" if defended["norm"] else ""
        attacks = ", ".join(name.partition(":")[2] for name in defended["attacks"])
        about = f"| {defended['threat']} | {size} | {attacks} | {defended['n']:,} |"
        lines.append(f"{about} {cell(alone[0]) if alone else ''} | {cell(defended)} |")
    return lines


def row_table(report: dict[str, Any]) -> list[str]:
    """A line an attack."""
    lines = ["| threat | attack | n | classifier alone | purifier and classifier |", "| --- | --- | --- | --- | --- |"]
    for row in (entry for entry in report["rows"] if entry["defended"]):
        alone = [other for other in report["rows"] if other["name"] == row["name"] and not other["defended"]]
        about = f"| {row['threat']} | {row['attack']} | {row['n']:,} |"
        lines.append(f"{about} {cell(alone[0]) if alone else ''} | {cell(row)} |")
    return lines


def gate_table(report: dict[str, Any]) -> list[str]:
    """A line a sanity gate."""
    verdicts = {True: "passed", False: "**failed**", None: "not checked"}
    return ["| sanity gate | | |", "| --- | --- | --- |"] + [
        f"| {gate['name']} | {verdicts[gate['passed']]} | {gate['explanation']} |" for gate in report["gates"]
    ]


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    report = json.loads(parser.parse_args().report.read_text())
    print("\n\n".join("\n".join(table(report)) for table in (headline_table, row_table, gate_table)))


if __name__ == "__main__":
    main()
