import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from helpers.reports import full_report, parity, passing_report, subject
from purify_edge.bundle.manifest import EngineEntry, FileEntry
from purify_edge.bundle.report import NotChecked, Report
from purify_edge.check.page.checked_bundle import CheckedBundle
from purify_edge.check.page.files import FORMATS, require_writable, write_report
from purify_edge.check.page.not_checked import not_checked
from purify_edge.errors import InputError

HOSTILE = [
    "</style><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "a | b\n| c | d |\n# heading",
    "[link](javascript:alert(1)) ![](http://example.com/x.png) `code` <b>bold</b> *e* _f_",
    "&lt;script&gt; &amp; &#60;",
    "\x00\x1b[31m\x9f\ud800 end",
    "\u202eright to left",
    "",
    "x" * 500,
]


def render_html(report: Report, about: CheckedBundle) -> str:
    return FORMATS[".html"](report, about).decode()


def render_markdown(report: Report, about: CheckedBundle) -> str:
    return FORMATS[".md"](report, about).decode()


class Parsed(HTMLParser):
    """Elements with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def titles(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_the_verdict_comes_first_and_what_is_broken_next() -> None:
    page = render_html(full_report(), subject())
    assert "<title>Failed: plain</title>" in page
    assert '<p class="verdict failed" role="status">' in page
    assert titles(page)[:2] == ["Broken limits", "What was not checked"]
    text = Parsed(page).text
    assert "✗ Failed 1 of 2 limits is broken." in text
    assert text.index("Failed 1 of 2") < text.index("Broken limits") < text.index("Parity with PyTorch")
    row = re.search(r'<tr class="broken">.*?</tr>', page)
    assert row is not None
    assert Parsed(row[0]).text == "✗\xa0agreement, onnxruntime fp32 defended clean0.990.995broken"
    assert "first diverging layer in int8, clean: conv1 (Conv of conv1), error 0.71, tolerance 0.2" in text


def test_a_pass_says_so_and_what_it_does_not_say() -> None:
    page = render_html(passing_report(), subject())
    text = Parsed(page).text
    assert '<p class="verdict passed" role="status">' in page
    assert "✓ Parity passed All 2 limits hold: onnxruntime, fp32, compared with PyTorch." in text
    assert "It does not say that attacks fail" in text
    assert "Broken limits" not in text


def test_a_pass_claims_nothing_of_what_was_not_checked_though_its_figures_are_shown() -> None:
    rows = (
        *passing_report().parity,
        parity("openvino", "int8", "defended", "clean", 60),
        parity("simulation", "int8", "defended", "clean"),
    )
    left = NotChecked(engine="openvino", precision="int8", reason="its sums saturate")
    text = Parsed(render_html(passing_report(parity=rows, not_checked=(left,)), subject())).text
    assert "hold: onnxruntime, fp32, compared with PyTorch." in text
    assert "openvino int8" in text
    assert "its sums saturate" in text
    assert "simulation int8, computed in float32, as the graph is written" in text
    assert "simulation bf16, simulated in float32: each weight and each tensor rounded" in text


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_a_failure_does_not_say_what_a_pass_says(render: Callable[..., str]) -> None:
    text = render(full_report(), subject())
    assert "A pass says" not in text
    assert "Whether attacks fail is not among the limits: read the white" in text


def test_every_part_of_the_report_is_there() -> None:
    assert titles(render_html(full_report(), subject())) == [
        "Broken limits",
        "What was not checked",
        "What runs here",
        "Parity with PyTorch",
        "Accuracy under attack",
        "Examples",
        "Latency",
        "Energy",
        "Suspicion score",
        "Layers left in float32",
        "Limits",
        "Environment",
    ]


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_energy_stands_by_meter_with_what_it_depends_on(render: Callable[..., str]) -> None:
    text = render(full_report(), subject()).replace("\\", "")
    for part in (
        "Energy for an image, in mJ, by VDD_IN of conv1; idle 4.57 W",
        "\N{MINUS SIGN}0.250",
        "48 \N{DEGREE SIGN}C",
        "RAPL: not readable: needs root, conv1",
        "300 W",
    ):
        assert part in text
    assert "Energy for an image" not in render(full_report(energy=()), subject())


def test_false_alarms_stand_by_change_and_the_score_is_named() -> None:
    report = full_report()
    text = Parsed(render_html(report, subject())).text
    assert "How far purification moves an answer that the classifier was sure of." in text
    assert "of the calibration's kind, and 5.0% after a change by noise, blur, light or storage; of other" in text
    assert "False alarms: golden images flagged after a change that is no attack" in text
    assert re.search(r"gaussian noise\s*200\s*3\.5", text)
    assert report.suspicion is not None
    old = msgspec.structs.replace(report.suspicion, score="logit-change", benign_rate=None, benign=())
    text = Parsed(render_html(full_report(suspicion=old), subject())).text
    assert "How far purification moves the classifier's answer." in text
    assert "of the calibration's kind; of other" in text
    assert "False alarms" not in text


def test_the_plan_stands_with_its_gain_its_agreement_and_what_it_left_out() -> None:
    report = full_report()
    text = Parsed(render_html(report, subject())).text
    assert f"purify-run: {report.plan}; bf16 stays for the life of a pipeline" in text
    assert "2.7 times as fast" in str(report.plan)
    assert "not tensorrt: cannot build conv1" in text
    assert "What runs here" not in titles(render_html(full_report(plan=None), subject()))


def test_figures_stand_with_n_units_and_intervals() -> None:
    text = Parsed(render_html(full_report(), subject())).text
    assert "Clean, classifier alone90.0%right; 85.1–93.4% with 95% confidence, n\xa0=\xa0200" in text  # noqa: RUF001
    assert "confidence, n\xa0=\xa0200; costs 0.0 pointsAttacked, classifier alone75.0%" in text
    assert "Attacked, purified75.0%right; 68.6–80.5%" in text  # noqa: RUF001
    assert "Attacker knows the purifier1.5%right; 0.9–2.5% with 95% confidence, n\xa0=\xa01,000; of PyTorch" in text  # noqa: RUF001
    assert "Median latency0.500 ms1 image, onnxruntime fp32" in text
    assert "pipeline90.590.099.0 96.4–99.72.0e-03 5.0e-01" in text  # noqa: RUF001
    assert "PGD-20, Linf 0.11,0000.0 0.0–0.489.0 86.9–90.8" in text  # noqa: RUF001
    assert "50 calls of each stage, interleaved, after 5 to warm up" in text
    assert "set on 744 clean images, so that it flags at most 1.0% of clean images of the calibration's kind" in text
    assert "adversarial20090.0 85.1–93.40.973" in text  # noqa: RUF001
    assert "clean +1.23, adversarial -0.40" in text


@pytest.mark.parametrize(("right", "said"), [(174, "costs 3.0 points"), (186, "gains 3.0 points")])
def test_the_purifiers_price_stands_under_the_purified_accuracy(right: int, said: str) -> None:
    rows = tuple(
        parity("onnxruntime", "fp32", role, "clean", n) for role, n in (("classifier", 180), ("pipeline", right))
    )
    text = Parsed(render_html(full_report(parity=rows), subject())).text
    assert text.index("Clean, classifier alone90.0%") < text.index(f"Clean, purified{right / 2:.1f}%")
    assert f"; {said}" in text


def test_a_row_is_marked_where_its_limit_is_broken_and_nowhere_else() -> None:
    page = render_html(full_report(), subject())
    parity_section = page.partition("Parity with PyTorch")[2].partition("<h2>")[0]
    broken = re.findall(r'<tr class="broken">(.*?)</tr>', parity_section)
    assert [Parsed(row).text.partition("90")[0] for row in broken] == ["✗\xa0defended"]


@pytest.mark.parametrize(
    ("run", "shown"),
    [
        ("resnet-7", False),
        ({"classifier": "resnet"}, False),
        ({"classifier": None}, False),
        ({"classifier": {"factory": "mine:net", "file_sha256": "0f"}}, True),
    ],
)
def test_provenance_may_be_of_any_shape(run: object, shown: bool) -> None:
    about = subject()
    about = replace(about, manifest=msgspec.structs.replace(about.manifest, provenance={"run": run}))
    assert ("mine:net, file SHA-256 0f" in Parsed(render_html(full_report(), about)).text) == shown


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_can_add_an_element_an_attribute_or_a_request(name: str) -> None:
    page = Parsed(FORMATS[".html"](full_report(name), subject(name)).decode())
    plain = Parsed(render_html(full_report(), subject()))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    for (_, found), (_, expected) in zip(page.elements, plain.elements, strict=True):
        assert found.keys() == expected.keys()
    assert "script" not in {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in {"src", "href"}:
                assert (value or "").startswith("data:image/png;base64,")


def test_a_name_is_shown_as_it_is() -> None:
    for name in HOSTILE[:6]:
        assert name in Parsed(render_html(full_report(), subject(name))).text


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_can_change_the_structure_of_the_markdown(name: str) -> None:
    found, plain = (render_markdown(full_report(text), subject(text)) for text in (name, "plain"))
    assert len(found.splitlines()) == len(plain.splitlines())
    for line, expected in zip(found.splitlines(), plain.splitlines(), strict=True):
        unescaped = re.sub(r"\\.", "", line)
        assert unescaped.count("|") == re.sub(r"\\.", "", expected).count("|")
        assert not re.search(r"[<>`\[\]]", unescaped)


def test_markdown_says_what_html_says() -> None:
    report = full_report()
    text = render_markdown(report, subject())
    page = render_html(report, subject())
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == titles(page)
    assert "**✗ Failed.** 1 of 2 limits is broken." in text
    assert "| ✗ agreement, onnxruntime fp32 defended clean | 0.99 | 0.995 | broken |" in text
    assert "| pipeline | 0.500 | 0.750 | 1.00 | 2,000 |" in text
    assert "| 0.4 |  | 1.0 (0.5–1.8) |" in text  # noqa: RUF001
    assert "| 1 | plain | ✓ plain (99%) | ✗ shoe (100%) | ✓ plain (75%) |" in text


def test_curves_side_by_side_have_the_same_axis() -> None:
    section = render_html(full_report(), subject()).partition("Accuracy under attack")[2].partition("<h2>")[0]
    axes = [re.findall(r'text-anchor="middle">([^<]*)<', plot) for plot in section.split("<svg")[1:]]
    assert len(axes) == 2
    assert axes[0] == axes[1] == ["0", "0.1", "0.2", "0.3", "0.4"]


def test_an_older_report_of_little_is_a_page_too() -> None:
    report = Report(environment={}, parity=(), latency=(), checks=(), passed=False)
    for text in (render_html(report, subject()), render_markdown(report, subject())):
        assert "Failed" in text
        assert "No limit was checked." in text
        assert "Examples" not in text


def test_what_was_not_checked_is_told_with_the_reason() -> None:
    file = FileEntry(path="engines/x", size_bytes=1, sha256="0" * 64)
    engine = EngineEntry(role="purifier", precision="fp16", builder="tensorrt_rtx", file=file, fingerprint={})
    found = dict(not_checked(full_report(), subject(engines=(engine,))))
    assert found["int8"] == "no kernels for conv1"
    assert found["openvino fp32"] == "not installed"
    assert found["bf16 on an engine"] == "only simulated here"
    assert "no GPU ran them" in found["engines for rtx"]
    assert "no limit was set" in found["whether it is fast enough"]
    assert "knows the classifier only" in found["an attacker who knows the purifier"]
    assert "200 clean and 200 adversarial" in found["other images"]
    assert "no signature" in found["the bundle's origin"]
    assert "attacks of other sizes" not in found
    assert "the suspicion score" not in found


@pytest.mark.parametrize(("share", "weak"), [(0.808, True), (0.0, False), (0.1, False)])
def test_an_attack_that_the_classifier_withstands_alone_tells_nothing_of_the_purifier(share: float, weak: bool) -> None:
    row = msgspec.structs.replace(parity("e", "fp32", "classifier", "adversarial"), accuracy_reference=share)
    found = dict(not_checked(full_report(parity=(row,)), subject()))
    assert ("how much the purifier helps" in found) == weak
    if weak:
        assert "leaves 80.8% right without it: too weak to tell" in found["how much the purifier helps"]


def test_a_verified_bundle_has_its_origin_checked() -> None:
    assert "the bundle's origin" not in dict(not_checked(full_report(), replace(subject(), verified=True)))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"latency": ()}, "latency"),
        ({"curve": ()}, "attacks of other sizes"),
        ({"curve": (), "accuracy": ()}, "accuracy on the whole test set"),
        ({"suspicion": None}, "the suspicion score"),
        ({"parity": (parity("onnxruntime", "fp16", "defended", "clean"),)}, "fp32"),
    ],
)
def test_what_is_missing_in_a_report_was_not_checked(changes: dict[str, object], what: str) -> None:
    assert what in dict(not_checked(full_report(**changes), subject()))
    assert what not in dict(not_checked(full_report(), subject()))


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # who runs the tests may be root
    with pytest.raises(InputError, match="cannot be written to; give another name"):
        require_writable(tmp_path / "report.html")


@pytest.mark.parametrize("suffix", [".html", ".HTML", ".md", ".json"])
def test_the_suffix_names_the_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"report{suffix}"
    write_report(path, full_report(), subject())
    start = {".html": b"<!DOCTYPE html>", ".md": b"# plain", ".json": b"{"}[suffix.lower()]
    assert path.read_bytes().startswith(start)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if suffix == ".json":
        assert msgspec.json.decode(path.read_bytes(), type=Report) == full_report()


def test_a_file_that_exists_is_kept_unless_it_is_to_be_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(InputError, match="exists; --force overwrites it, or give another name"):
        write_report(path, full_report(), subject())
    assert path.read_text() == "mine"
    write_report(path, full_report(), subject(), force=True)
    assert path.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("report.pdf", "ends with .html, .md, .json, got '.pdf'"),
        ("report", "ends with .html, .md, .json, got ''"),
        ("there.html", "is a folder"),
        ("no/report.html", "there is no folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_beforehand(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "there.html").mkdir()
    with pytest.raises(InputError, match=message):
        require_writable(tmp_path / name)
    with pytest.raises(InputError, match=message):
        write_report(tmp_path / name, full_report(), subject())
