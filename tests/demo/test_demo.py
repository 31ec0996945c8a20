"""The page in a real Chromium, from a real server; `make test-demo` makes an environment with Gradio for it."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from helpers.browser import CONTRASTS, PATIENCE_MS, open_browser
from helpers.images import png
from helpers.ports import free_port
from helpers.processes import wait_for
from purify_edge.bundle.reader import Bundle
from purify_edge.demo.attacks import NONE, PGD, STORED
from purify_edge.demo.playground import Playground
from purify_edge.images.pictures import png_of
from purify_edge.pipeline.pipeline import Pipeline

pytestmark = pytest.mark.skipif(not find_spec("gradio"), reason="Gradio is not installed; run make test-demo")

BUNDLE, ON_CLASSIFIER = "fashion-mnist", "Square attack on the classifier"
WAY = {"engine": "onnxruntime", "precision": "fp32"}
VISITORS = 20
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
INSIDE = ("data:", "blob:")


def start(work: Path, port: int) -> "subprocess.Popen[str]":
    command = [str(Path(sys.executable).parent / "purify-demo"), BUNDLE, "--port", str(port)]
    command += [f"--{name}={value}" for name, value in WAY.items()]
    variables = os.environ | {"TMPDIR": str(work)}
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@dataclass(frozen=True)
class Demo:
    """A server that runs, its address, and the folder of its temporary files."""

    process: "subprocess.Popen[str]"
    url: str
    work: Path


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    work, port = tmp_path_factory.mktemp("demo"), free_port()
    process = start(work, port)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C ends it" in line:
            break
    assert process.poll() is None, lines
    yield Demo(process, f"http://127.0.0.1:{port}/", work)
    if process.poll() is None:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser whose pages share what they loaded."""
    with open_browser(*CAMERA) as browser:
        context = browser.new_context()
        context.set_default_timeout(PATIENCE_MS)
        yield context


@pytest.fixture(scope="module")
def playground() -> Iterator[Playground]:
    with Pipeline.load(BUNDLE, **WAY) as pipeline:  # type: ignore[arg-type]
        yield Playground(Bundle.open(BUNDLE), pipeline)


class Visitor:
    """A page that shows its first result; `requests` and `messages` are what it caused."""

    def __init__(self, browser: Any, demo: Demo, width: int = 1280, scheme: str = "light") -> None:
        self.page = browser.new_page()
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme=scheme)
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda opened: self.requests.append(opened.url))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(demo.url)
        self.result = self.page.locator("#result")
        self.result.get_by_role("status").wait_for()

    def upload(self, path: Path) -> None:
        with self.page.expect_response(re.compile("/upload")):
            self.page.locator("#picture input[type=file]").set_input_files(path)
        self.page.locator("#picture img").wait_for(state="attached")  # the page has taken the answer in

    def purify(self, attack: str, said: str) -> str:
        """Choose an attack, press the button, and wait for words in the result."""
        self.page.get_by_label(attack, exact=True).check()
        self.page.get_by_role("button", name="Purify").click()
        self.result.get_by_text(said).wait_for()
        return str(self.result.inner_text())

    def away(self, demo: Demo) -> list[str]:
        return [url for url in self.requests if not url.startswith((demo.url, *INSIDE))]


@pytest.fixture
def visitor(browser: Any, demo: Demo) -> Iterator[Visitor]:
    visitor = Visitor(browser, demo)
    yield visitor
    assert visitor.messages == []
    assert visitor.away(demo) == []
    visitor.page.close()


def test_an_upload_is_attacked_and_its_class_comes_back(
    visitor: Visitor, playground: Playground, tmp_path: Path
) -> None:
    for title in playground.samples:
        found = playground.play(title, None, ON_CLASSIFIER, 0.1)
        if found.before.argmax() != found.undisturbed == found.after.argmax():
            break
    (tmp_path / "mine.png").write_bytes(png_of(playground.samples[title].clean))
    visitor.upload(tmp_path / "mine.png")
    text = visitor.purify(ON_CLASSIFIER, "The purifier brought the first answer back.")
    names = playground.class_names
    before, after = names[found.before.argmax()], names[found.after.argmax()]
    assert f"The classifier alone says {before}, after the purifier {after}." in text
    assert found.note in text
    assert "ms for purifier, classifier and score" in text
    assert "the threshold 13.7" in text


def test_an_example_that_is_clicked_takes_the_place_of_an_upload(
    visitor: Visitor, playground: Playground, tmp_path: Path
) -> None:
    titles = [*playground.samples]
    (tmp_path / "text.png").write_text("this is not an image\n")
    visitor.upload(tmp_path / "text.png")
    visitor.page.locator("#examples").get_by_role("button").nth(titles.index("Bag, 1")).click()
    assert "True class: Bag." in visitor.purify(STORED, "True class: Bag.")
    assert visitor.page.get_by_label("Example", exact=True).input_value() == "Bag, 1"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text.png", b"this is not an image\n", "Your picture cannot be read as an image"),
        ("huge.png", png(8_100, 8_000), "more than 64,000,000"),
        ("empty.png", b"", "Your picture is empty"),
    ],
)
def test_a_file_that_is_no_picture_is_told_in_the_page(
    visitor: Visitor, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    visitor.upload(tmp_path / name)
    visitor.purify(NONE, said)
    assert said in visitor.result.get_by_role("alert").inner_text()


def test_a_file_over_the_limit_is_refused(visitor: Visitor, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(os.urandom(21_000_000))
    visitor.page.locator("#picture input[type=file]").set_input_files(tmp_path / "large.png")
    visitor.page.get_by_text(re.compile("exceed", re.IGNORECASE)).first.wait_for()


def test_a_picture_of_the_camera(visitor: Visitor) -> None:
    box = visitor.page.locator("#picture")
    box.get_by_label("Capture from camera").click()
    box.get_by_text("Click to Access Webcam").click()
    box.locator("video").wait_for()
    visitor.page.wait_for_function(
        "(video => video.readyState === 4 && video.currentTime > 0)(document.querySelector('video'))"
    )
    with visitor.page.expect_response(re.compile("/upload")):
        box.get_by_label("capture photo").click()
    assert "Before the attack it said" in visitor.purify("Noise", "Before the attack it said")


def test_twenty_visitors_at_once_get_their_own_answers(demo: Demo, playground: Playground) -> None:
    from gradio_client import Client

    def visit(title: str) -> str:
        client = Client(demo.url, verbose=False, analytics_enabled=False, download_files=False)
        return str(client.predict(title, None, STORED, 0.1, api_name="/purify"))

    titles = [*playground.samples][:VISITORS]
    with ThreadPoolExecutor(VISITORS) as pool:
        pages = [*pool.map(visit, titles)]
    assert len(pages) == VISITORS
    for title, page in zip(titles, pages, strict=True):
        found = playground.play(title, None, STORED, 0.1)
        before, after, truth = (
            playground.class_names[index] for index in (found.before.argmax(), found.after.argmax(), found.truth or 0)
        )
        assert f"alone says {before}, after the purifier {after}. True class: {truth}." in page


def test_an_address_in_place_of_an_upload_is_not_fetched(demo: Demo) -> None:
    from gradio_client import Client

    client = Client(demo.url, verbose=False, analytics_enabled=False)
    picture = {"path": f"http://127.0.0.1:{free_port()}/x.png", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(Exception, match="this server fetches nothing"):
        client.predict("Bag, 1", picture, NONE, 0.1, api_name="/purify")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(browser: Any, demo: Demo, scheme: str) -> None:
    visitor = Visitor(browser, demo, 360, scheme)
    page = visitor.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    wide = "() => [...document.querySelectorAll('#result *')].filter(e => e.getBoundingClientRect().right > 360).length"
    assert page.evaluate(wide) == 0
    grounds = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", grounds)[:3])) > 384) == (scheme == "light")
    ours = {"STRONG.null", "DT.null", "H1.null", "P.verdict good", "FIGCAPTION.null"}
    contrasts = {kind: ratio for kind, ratio in page.evaluate(CONTRASTS).items() if kind in ours}
    assert len(contrasts) >= 4
    assert {kind: ratio for kind, ratio in contrasts.items() if ratio < 4.5} == {}
    assert visitor.away(demo) == visitor.messages == []
    page.close()


def test_all_can_be_found_without_seeing_it(visitor: Visitor) -> None:
    page = visitor.page
    for label in ("Example", "Noise", "Blur"):
        assert page.get_by_label(label, exact=True).count() == 1
    assert page.get_by_role("heading", name="Try the purifier").count() == 1
    assert page.get_by_role("region", name="Result").count() == 1
    assert visitor.result.get_by_alt_text("the picture after the purifier").count() == 1
    assert page.get_by_label(PGD, exact=True).count() == (1 if find_spec("onnx2pytorch") else 0)
    page.get_by_label("Noise", exact=True).check()
    page.get_by_role("slider", name=re.compile("Size of the attack")).wait_for()
    assert page.get_by_text("standard deviation; pixels go from 0 to 1").count() == 1


def test_every_answer_has_the_policy(demo: Demo) -> None:
    with urllib.request.urlopen(demo.url) as answer:
        assert answer.headers["content-security-policy"].startswith("default-src 'self'; script-src 'self'")
        page = answer.read().decode()
    assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=.https?://", page)


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(tmp_path, taken.getsockname()[1])
        out, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "--host and --port name another address" in out
    assert "Traceback" not in out
    assert [*tmp_path.iterdir()] == []


def test_the_end_leaves_no_file(demo: Demo) -> None:
    """The last test: it ends the server."""
    (folder,) = demo.work.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path for path in folder.rglob("*.png") if "example" not in path.name]  # uploads of the tests before
    demo.process.send_signal(signal.SIGTERM)
    out, _ = demo.process.communicate(timeout=300)
    assert demo.process.returncode == 0
    assert "Traceback" not in out
    wait_for(lambda: not [*demo.work.iterdir()])
