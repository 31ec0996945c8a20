from io import StringIO

from rich.console import Console

from purify_edge.document.markdown import markdown_table
from purify_edge.document.model import Table
from purify_edge.document.terminal import print_document
from purify_toolkit.evaluate.tables import document_of, gate_table

FEW = {"accuracy": 0.9, "ci95": [0.8256, 0.9448], "n": 1000}
REPORT = {
    "headlines": [
        {"threat": "grey-box", "defended": True, "norm": "L2", "size": 1.5, **FEW, "attacks": ["grey-box:pgd-l2"]},
        {"threat": "corruptions", "defended": True, "norm": None, "size": None, **FEW, "attacks": ["corruptions:fog"]},
    ],
    "rows": [
        {"threat": "clean", "attack": "none", "name": "clean:none", "defended": False, **FEW, "accuracy": 0.95},
        {"threat": "clean", "attack": "none", "name": "clean:none", "defended": True, **FEW},
        {"threat": "bpda", "attack": "PGD-20", "name": "bpda:pgd", "defended": True, **FEW},
    ],
    "gates": [
        {"name": "a", "passed": True, "explanation": "x"},
        {"name": "b", "passed": False, "explanation": "y"},
        {"name": "c", "passed": None, "explanation": "z"},
    ],
}


TAX = {"n": 1000, "undefended": 0.95, "defended": 0.9, "points": 5.0, "p": 0.001}


def lines(table: Table) -> list[str]:
    return markdown_table(table).splitlines()[2:]


def test_a_gate_that_was_not_checked_has_not_passed() -> None:
    assert lines(gate_table(REPORT["gates"])) == [
        "| a | passed | x |",
        "| ✗ b | failed | y |",
        "| c | not checked | z |",
    ]


def test_of_a_pass_is_said_what_passed() -> None:
    verdict = document_of({**REPORT, "gates": REPORT["gates"][:1], "tax": TAX, "passed": True}).verdict
    assert verdict is not None
    assert verdict.word == "Gates passed"


def test_the_document_has_all_of_it_and_the_verdict_last() -> None:
    out = StringIO()
    print_document(document_of({**REPORT, "tax": TAX, "passed": False}), Console(file=out, width=150))
    text = " ".join(out.getvalue().split())
    assert "The purifier costs 5.00 points on 1000 clean images (95.00% to 90.00%, McNemar's p = 0.001)." in text
    assert "bpda PGD-20 1,000 90.00% (82.56 to 94.48)" in text
    assert text.index("Worst case of each threat") < text.index("Every attack") < text.index("Is this evaluation")
    assert text.endswith("FAILED: 1 sanity gate failed: do not trust the figures")
