"""The report in a real Chromium: its verdict, at a phone's width and a desk's, in light and dark, and offline."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.browser import CONTRASTS, CUT_OFF, OVERFLOWING, open_browser
from helpers.reports import full_report, passing_report, subject
from purify_edge.check.page.files import write_report

pytestmark = pytest.mark.once

LONG = "a_very_long_name_without_any_place_to_break_it" * 3
WIDTHS = (360, 1280)
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report that failed, one that passed, and one with names that fit nowhere."""
    folder = tmp_path_factory.mktemp("pages")
    made = {
        "failed": (full_report(), subject()),
        "passed": (passing_report(), subject(channels=3)),
        "long": (full_report(LONG), subject(LONG)),
    }
    for name, (report, about) in made.items():
        write_report(folder / f"{name}.html", report, about)
    return {name: folder / f"{name}.html" for name in made}


class Visit:
    """A page as opened, everything on it unfolded; `requests` and `messages` are what it caused."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: str) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.url = path.as_uri()
        self.page.goto(self.url, wait_until="load")
        self.page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")


@pytest.fixture(params=[(360, "dark"), (1280, "light")], ids=str)
def visit(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    visits = []

    def go(path: Path) -> Visit:
        visits.append(Visit(browser, path, *request.param))
        return visits[-1]

    yield go
    for visited in visits:
        visited.page.close()


@pytest.mark.parametrize(
    ("name", "verdict"), [("failed", "✗ Failed"), ("passed", "✓ Parity passed"), ("long", "✗ Failed")]
)
def test_the_verdict_is_the_first_thing_to_be_seen(visit: Any, pages: Any, name: str, verdict: str) -> None:
    page = visit(pages[name]).page
    status = page.get_by_role("status")
    assert status.locator("strong").inner_text() == verdict
    assert status.is_visible()
    assert page.title().startswith(verdict[2:])
    if name != "long":
        assert status.bounding_box()["y"] + status.bounding_box()["height"] < 800


@pytest.mark.parametrize("name", ["failed", "passed", "long"])
def test_nothing_overflows(visit: Any, pages: Any, name: str) -> None:
    page = visit(pages[name]).page
    assert page.evaluate(OVERFLOWING) == []
    if name != "long":
        assert page.evaluate(CUT_OFF) == []


def test_text_can_be_read_on_its_ground(visit: Any, pages: Any) -> None:
    for name in ("failed", "passed"):
        contrasts = visit(pages[name]).page.evaluate(CONTRASTS)
        assert len(contrasts) > 20
        assert {kind: ratio for kind, ratio in contrasts.items() if ratio < 4.5} == {}


def test_no_request_leaves_the_file_and_the_policy_has_nothing_to_object(visit: Any, pages: Any) -> None:
    for path in pages.values():
        visited = visit(path)
        assert [url for url in visited.requests if not url.startswith("data:image/png")] == [visited.url]
        assert visited.messages == []


def test_images_are_shown_sharp_and_named(visit: Any, pages: Any) -> None:
    page = visit(pages["passed"]).page
    images = page.locator("img")
    assert images.count() == 6
    for index in range(6):
        image = images.nth(index)
        assert image.evaluate("image => image.complete && image.naturalWidth") == 8
        assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
        assert image.bounding_box()["width"] > 60
    assert page.get_by_alt_text("adversarial image, called shoe, which is wrong").count() == 2


def test_the_page_of_a_real_bundle(visit: Any, bundle_path: Path) -> None:
    visited = visit(bundle_path / "report.html")
    assert visited.page.get_by_role("status").inner_text().startswith("✓ Parity passed All")
    assert visited.page.evaluate(OVERFLOWING) == visited.page.evaluate(CUT_OFF) == visited.messages == []
    assert visited.page.locator("img").count() == 3 * 8
    assert visited.page.get_by_alt_text("purified image, called").count() == 8


def test_plots_and_tables_are_there_for_who_does_not_see_them(browser: Any, pages: Any) -> None:
    page = Visit(browser, pages["failed"], 1280, "light").page
    plots = page.get_by_role("img").filter(has=page.locator("text"))
    assert plots.count() == page.locator("svg").count() == 6
    assert page.get_by_role("img", name="Median latency in ms: onnxruntime fp32 pipeline 0.500").count() == 1
    assert page.get_by_role("columnheader", name="same class").count() == 2
    assert page.get_by_role("rowheader", name="purifier", exact=True).count() == 2
    headings = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(part => part.tagName)")
    assert headings == ["H1", *["H2"] * 12]


def test_dark_is_dark_and_light_is_light(browser: Any, pages: Any) -> None:
    grounds = [
        Visit(browser, pages["passed"], 1280, scheme).page.evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in SCHEMES
    ]
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 23, 26)"]


def test_print_is_light_and_shows_what_is_folded(browser: Any, pages: Any) -> None:
    page = browser.new_page(viewport={"width": 700, "height": 1000}, color_scheme="dark")  # A4 between its margins
    page.goto(pages["failed"].as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.get_by_role("cell", name="2,000").first.bounding_box()["height"] > 0
    assert page.evaluate(OVERFLOWING) == []
    assert len(page.pdf(format="A4")) > 10_000
