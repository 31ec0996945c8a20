"""The site that make docs builds: its links, its reference, and the page `Try it`, in a real Chromium."""

import base64
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from helpers.browser import CONTRASTS, PATIENCE_MS, open_browser
from helpers.processes import wait_for
from helpers.project import PROJECT, REPOSITORY
from lab.site.try_it import PACKAGE
from purify_edge import Pipeline
from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.manifest import InputContract
from purify_edge.bundle.reader import Bundle
from purify_edge.images.decoding import read_image
from purify_edge.pipeline.suspicion import suspicion_of
from purify_toolkit.recipe import Recipe

READY = '[data-is="answer"]:not([hidden])'
LOADED = re.compile(r'<(?:script|img|iframe|source)[^>]+src="([^"]+)"|<link(?![^>]+rel="canonical")[^>]+href="([^"]+)"')
ALL = """async ({ bytes, size }) => {
    const { open, predict } = await import("./pipeline.js");
    const pipeline = await open();
    const images = Uint8Array.from(atob(bytes), letter => letter.charCodeAt(0));
    const found = [];
    for (let start = 0; start < images.length; start += size) {
        const { before, after, suspicion, suspicious } = await predict(pipeline, images.slice(start, start + size));
        found.push({ before, after, suspicion, suspicious });
    }
    return found;
}"""
FITTED = """async ({ bytes, input }) => {
    const { fitted } = await import("./pipeline.js");
    return Array.from(await fitted(new Blob([Uint8Array.from(atob(bytes), letter => letter.charCodeAt(0))]), input));
}"""
DROP = """bytes => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([Uint8Array.from(atob(bytes), letter => letter.charCodeAt(0))], "mine.png"));
    document.getElementById("try").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
}"""


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a warning fails it."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (it is in the dependency group docs)")
    if not shutil.which("npm") and not (REPOSITORY / "build" / f"{PACKAGE}.tgz").is_file():
        pytest.skip("no npm on PATH (Debian: apt-get install npm), which gets ONNX Runtime Web")
    folder = tmp_path_factory.mktemp("site")
    rooms = [str(REPOSITORY / room) for room in ("runtime", "toolkit", "export", "")]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": os.pathsep.join(rooms)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where a plain server of files has the site."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def wrong() -> list[str]:
    """What pages complained of, and what they asked of others."""
    return []


@pytest.fixture(autouse=True)
def nothing_wrong(wrong: list[str]) -> Iterator[None]:
    """Fail a test in which a page complained, or asked anything of others."""
    yield
    found, wrong[:] = list(wrong), []
    assert not found


@pytest.fixture(scope="module")
def open_page(browser: Any, address: str, wrong: list[str]) -> Any:
    """A function that opens a page of the site."""

    def opened(path: str) -> Any:
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("request", lambda asked: None if own(asked.url) else wrong.append(asked.url))
        page.on("response", lambda answer: wrong.append(answer.url) if answer.status >= 400 else None)
        page.goto(address + path)
        return page

    def own(url: str) -> bool:
        return url.startswith((f"{address}/", "data:", "blob:"))

    return opened


@pytest.fixture(scope="module")
def page(open_page: Any) -> Any:
    """The page `Try it`, as tests leave it: it takes seconds to load."""
    opened = open_page("/try/")
    opened.wait_for_selector(READY)
    return opened


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open("fashion-mnist")


@pytest.fixture(scope="module")
def golden(bundle: Bundle) -> dict[str, GoldenSplit]:
    return load_golden(bundle)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def said(page: Any) -> str:
    """What the page says, once it says something."""
    return str(page.inner_text('[data-is="said"]'))


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = [one or other for one, other in LOADED.findall(page.read_text())]
        assert loaded
        assert not [place for place in loaded if re.match(r"(?:[a-z]+:)?//", place)], page


def test_links_to_files_outside_the_documents_lead_to_copies(site: Path) -> None:
    page = site / "results/cifar10/index.html"
    found = re.search(r'href="([^"]+evaluation\.json)"', page.read_text())
    assert found
    copied = (page.parent / found[1]).resolve()
    original = REPOSITORY / "toolkit/pairs/purify_pairs/cifar10/evaluation/evaluation.json"
    assert copied.is_relative_to(site.resolve()) and copied.read_bytes() == original.read_bytes()


def test_a_notebook_is_a_page_and_can_be_downloaded(site: Path) -> None:
    page = (site / "own-classifier/index.html").read_text()
    assert "Three lines of Python" in page and "%%sh" not in page
    assert (site / "own-classifier.ipynb").read_bytes() == (REPOSITORY / "docs/own-classifier.ipynb").read_bytes()
    assert 'href="../own-classifier.ipynb"' in page
    assert 'href="own-classifier/"' in (site / "index.html").read_text()


def test_the_reference_names_every_option_key_and_name(site: Path) -> None:
    text = {page: (site / f"reference/{page}/index.html").read_text() for page in ("commands", "recipes", "python")}
    for command in map(resolve_name, PROJECT["scripts"].values()):
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert all(option in text["commands"] for option in parameter.opts)
    for key in Recipe.__struct_fields__:
        assert f"<code>{key}</code>" in text["recipes"]
    for name in ("on_alert", "Pipeline", "suspicious", "InputError", "fp16"):
        assert name in text["python"]


@pytest.mark.parametrize("name", ["manifest", "report"])
def test_the_schemas_are_those_of_a_bundle(site: Path, bundle: Bundle, name: str) -> None:
    schema = json.loads((site / f"reference/{name}.schema.json").read_text())
    content = json.loads((bundle.path / f"{name}.json").read_text())
    jsonschema.validate(content, schema)
    del content[schema["$defs"][name.capitalize()]["required"][0]]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def test_every_example_gets_the_answers_of_pytorch(page: Any, bundle: Bundle, golden: dict[str, GoldenSplit]) -> None:
    names = bundle.manifest.class_names
    places = page.eval_on_selector_all('[name="example"]', "inputs => inputs.map(input => Number(input.value))")
    assert golden["clean"].labels[places].tolist() == list(range(len(names)))
    for kind, split in (("clean", "clean"), ("attacked", "adversarial")):
        page.check(f'[name="kind"][value="{kind}"]')
        for place in places:
            page.check(f'[name="example"][value="{place}"]', force=True)
            label = golden[split].labels[place]
            answers = [golden[split].classifier[place].argmax(), golden[split].defended[place].argmax()]
            alone, behind = (f"{names[answer]} ({'right' if answer == label else 'wrong'})" for answer in answers)
            expected = f"The classifier alone says {alone}, behind the purifier {behind}."
            page.wait_for_function(
                "words => document.querySelector('[data-is=said]').textContent === words", arg=expected
            )


def test_all_golden_images_get_the_answers_of_pytorch(
    page: Any, bundle: Bundle, golden: dict[str, GoldenSplit]
) -> None:
    splits = [golden["clean"], golden["adversarial"]]
    images, alone, behind = (
        np.concatenate([getattr(split, name) for split in splits]) for name in ("images", "classifier", "defended")
    )
    given = {"bytes": encoded(images.tobytes()), "size": images[0].size}
    found = page.evaluate(ALL, given)
    assert len(found) == 512
    right = [int(np.sum(logits[256:].argmax(axis=1) == splits[1].labels)) for logits in (alone, behind)]
    shown = page.inner_text('[data-is="golden"]')
    assert [int(number) for number in re.findall(r"\d+", shown)] == [256, *right]
    assert [np.argmax(one["before"]) for one in found] == alone.argmax(axis=1).tolist()
    assert [np.argmax(one["after"]) for one in found] == behind.argmax(axis=1).tolist()
    scores = np.array([one["suspicion"] for one in found])
    np.testing.assert_allclose(scores, suspicion_of(alone, behind), rtol=1e-3, atol=1e-3)
    with Pipeline.load(bundle, engine="onnxruntime", precision="fp32") as pipeline:
        prediction = pipeline.predict(images)
    np.testing.assert_allclose([one["after"] for one in found], prediction.probabilities, atol=1e-4)
    assert prediction.suspicious is not None
    assert [one["suspicious"] for one in found] == prediction.suspicious.tolist()


@pytest.mark.parametrize(("mode", "size"), [("RGB", (61, 113)), ("L", (300, 200)), ("RGB", (28, 28)), ("P", (13, 7))])
def test_a_picture_becomes_the_pixels_that_the_commands_make_of_it(
    page: Any, tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(tmp_path / "noise.png")
    for channels in (1, 3):
        given = {"channels": channels, "height": 28, "width": 31}
        found = page.evaluate(FITTED, {"bytes": encoded((tmp_path / "noise.png").read_bytes()), "input": given})
        assert found == read_image(tmp_path / "noise.png", InputContract(**given)).ravel().tolist()


def test_a_picture_may_be_dropped_or_chosen(
    page: Any, bundle: Bundle, golden: dict[str, GoldenSplit], tmp_path: Path
) -> None:
    large = Image.fromarray(golden["clean"].images[0, :, :, 0]).resize((280, 300), Image.Resampling.NEAREST)
    large.save(tmp_path / "mine.png")
    with Pipeline.load(bundle, engine="onnxruntime", precision="fp32") as pipeline:
        prediction = pipeline.predict(large)
    for give in ("drop", "choose"):
        page.evaluate("document.querySelector('[data-is=said]').textContent = ''")
        if give == "drop":
            page.evaluate(DROP, encoded((tmp_path / "mine.png").read_bytes()))
        else:
            page.set_input_files('[data-is="file"]', tmp_path / "mine.png")
        page.wait_for_function("document.querySelector('[data-is=said]').textContent")
        assert said(page).endswith(f"behind the purifier {bundle.manifest.class_names[prediction.labels[0]]}.")
        assert prediction.suspicion is not None
        shown = re.search(r"Suspicion ([\d.]+)", page.inner_text('[data-is="suspicion"]'))
        assert shown and float(shown[1]) == pytest.approx(float(prediction.suspicion[0]), abs=0.06)
        assert page.locator('[name="kind"]').first.is_disabled()


def test_what_is_no_picture_is_refused_in_words(page: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not a picture")
    page.set_input_files('[data-is="file"]', tmp_path / "notes.png")
    page.wait_for_selector('[data-is="answer"]', state="hidden")
    assert said(page).startswith("notes.png cannot be read as a picture; expected a PNG, JPEG")
    page.check('[name="example"]', force=True)
    page.wait_for_selector(READY)


def test_a_picture_that_is_too_large_is_refused_in_words(page: Any, tmp_path: Path) -> None:
    Image.new("1", (4097, 4096)).save(tmp_path / "large.png")
    page.set_input_files('[data-is="file"]', tmp_path / "large.png")
    page.wait_for_function("document.querySelector('[data-is=said]').textContent.includes('more than 16 million')")


def test_a_site_that_is_not_whole_says_what_to_do(open_page: Any, wrong: list[str]) -> None:
    page = open_page("/method/")
    page.route("**/manifest.json", lambda route: route.fulfill(status=404))
    page.goto(page.url.replace("/method/", "/try/"))
    page.wait_for_function("document.getElementById('try').textContent.includes('make docs')")
    assert page.inner_text("#try").startswith("This page cannot run here: bundle/manifest.json is not there (404)")
    assert len([place for place in wrong if place.endswith("manifest.json")]) == 1
    wrong.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read(page: Any, scheme: str) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.check('[name="example"]', force=True)
    page.wait_for_selector(READY)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(ground[:3]) < 200) == (scheme == "dark")
    contrasts = page.evaluate(CONTRASTS.replace("body *", "#try *"))
    assert len(contrasts) >= 8
    assert min(contrasts.values()) >= 4.5, contrasts


def test_it_can_be_used_by_keyboard_and_heard(page: Any) -> None:
    page.check('[name="example"]', force=True)
    page.wait_for_function("document.querySelector('[data-is=said]').textContent.includes('(right)')")
    before = said(page)
    page.focus('[name="example"]:checked')
    page.keyboard.press("ArrowRight")
    page.wait_for_function("before => document.querySelector('[data-is=said]').textContent !== before", arg=before)
    assert page.get_by_role("radio", name="Trouser").is_checked()
    assert page.get_by_role("group", name="An example").count() == 1
    assert page.get_by_role("img", name="The picture after the purifier").count() == 1
    assert page.get_by_label("drop a picture of yours").count() == 1
    assert page.get_by_role("table", name="What it is taken for").count() == 1
    wait_for(lambda: page.get_by_role("status").inner_text() == said(page))  # another answer may come between the two


def test_the_search_finds_an_option(open_page: Any) -> None:
    page = open_page("/")
    page.keyboard.press("/")
    page.keyboard.type("suspicion score")
    page.wait_for_selector(".md-search-result__link")
