from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from helpers.reports import full_report, passing_report, subject, timed
from purify_edge.bundle.report import Report
from purify_edge.check.page.content import document_of
from purify_edge.document.model import Bullets, Document, Estimate, Paragraph, Section, TableRow, Verdict, table
from purify_edge.document.terminal import print_document


def printed(document: Document, width: int = 120) -> str:
    out = StringIO()
    print_document(document, Console(file=out, width=width))
    return out.getvalue()


def told(report: Report, **names: Any) -> str:
    return printed(document_of(report, subject(**names)), width=200)


def test_the_verdict_comes_last_and_the_broken_limits_first() -> None:
    lines = told(full_report()).splitlines()
    assert lines[0] == "plain"
    assert lines[-1] == "FAILED: 1 of 2 limits is broken."
    assert "✗ agreement, onnxruntime fp32 defended clean" in "\n".join(lines[:10])
    assert told(passing_report()).splitlines()[-1].startswith("parity passed: All 2 limits hold")


def test_what_conversions_and_the_device_left_out_is_told_line_by_line() -> None:
    lines = told(full_report()).splitlines()
    assert "first diverging layer in int8, clean: conv1 (Conv of conv1), error 0.71, tolerance 0.2" in lines
    assert "int8: no kernels for conv1" in lines
    cells = [line.split() for line in lines]
    assert ["fp16", "purifier", "conv1", "(Conv", "of", "conv1)", "it", "overflows"] in cells
    assert ["✗", "int8", "clean", "+1.23,", "adversarial", "-0.40", "4", "of", "20", "0.5", "broken"] in cells
    assert ["pipeline", "90.5", "90.0", "99.0", "(96.4–99.7)", "2.0e-03", "(5.0e-01)"] in cells  # noqa: RUF001
    assert any(line.startswith("simulation bf16, simulated in float32") for line in lines)


def test_what_pages_alone_show_or_fold_is_left_out() -> None:
    text = told(full_report())
    for heading in ("Examples", "Accuracy under attack", "Limits\n", "accuracy drop,"):
        assert heading not in text
    for heading in ("Latency", "Suspicion score", "p99 ms", "AUROC against clean", "Attacker knows the purifier: 1.5%"):
        assert heading in text


def test_a_precision_that_is_slower_than_float32_is_told_of() -> None:
    def told_of(*times: tuple[str, str, float]) -> str:
        rows = tuple(timed(engine, precision, "pipeline", 1, p50_ms) for engine, precision, p50_ms in times)
        return told(passing_report(latency=rows))

    text = told_of(
        ("onnxruntime", "fp32", 0.9), ("onnxruntime", "int8", 2.7), ("openvino", "fp32", 0.9), ("openvino", "int8", 0.4)
    )
    assert (
        "onnxruntime int8: takes 3.0 times as long as fp32 here: take fp32, or "
        "pip install 'purify-edge[openvino]' and --engine openvino\n"
    ) in text
    assert text.count("times as long") == 1
    text = told_of(("tensorrt", "fp16", 1.3), ("tensorrt", "fp32", 1.0))
    assert "tensorrt fp16: takes 1.3 times as long as fp32 here: take fp32\n" in text


@pytest.mark.parametrize("width", [80, 200])
def test_nothing_is_cut_off(width: int) -> None:
    text = printed(document_of(full_report(), subject()), width)
    assert "…" not in text
    assert "PGD-20, plain" in text
    rows = [("x" * 300, "1")]
    text = printed(Document(title="", sections=(Section("", (table("", ("a", "b"), rows),)),)), width)
    assert text.count("x") == 300  # folded, not cropped


def test_names_are_printed_as_they_are_but_for_control_characters() -> None:
    name = "[red]a[/red] \x1b[31m [/nonsense] :smile:"
    text = told(full_report(name), name=name)
    assert "\x1b" not in text
    assert text.count("[red]a[/red] \ufffd[31m [/nonsense] :smile:") > 5


def test_a_document_may_be_a_table_alone() -> None:
    rows = [("a", "1"), TableRow(("b", Estimate("2", "1-3")), broken=True)]
    document = Document(title="", sections=(Section("", (table("numbers", ("name", "n"), rows),)),))
    assert [line.split() for line in printed(document).splitlines() if line.strip(" ─")] == [
        ["numbers"],
        ["name", "n"],
        ["a", "1"],
        ["✗", "b", "2", "(1-3)"],
    ]


def test_paragraphs_and_lists_are_printed_and_intros_are_not() -> None:
    section = Section("Heading", (Paragraph("words\x07"), Bullets((("term", "said"),))), intro="how to read it")
    document = Document(title="t", sections=(section,), verdict=Verdict(passed=True, summary="fine"))
    assert printed(document) == "t\nHeading\nwords\ufffd\n\nterm: said\n\npassed: fine\n"
