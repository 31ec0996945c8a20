"""A bundle in a real Triton: `make test-serving` installs one and names its environment in `$PURIFY_TEST_TRITON`."""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from click.testing import CliRunner, Result

from helpers.bundles import replace as replace_file
from helpers.ports import free_port
from helpers.processes import wait_for
from helpers.triton_server import KEY, REASON, TRITON, WAY, Server, infer, servers, stubs
from lab.serving import CLIENTS
from lab.serving import main as study
from purify_edge import Pipeline
from purify_edge.bench.cli import main as bench_command
from purify_edge.bundle.golden import GoldenSplit, encode_golden, load_golden
from purify_edge.bundle.golden_files import load_files
from purify_edge.bundle.reader import Bundle
from purify_edge.check.cli import main as check_command
from purify_edge.images.decoding import decode_image
from purify_edge.images.pictures import png_of
from purify_edge.serve.config import CONFIG, Serving
from purify_edge.serve.deployment import QUESTION, Deployment, write_deployment
from purify_edge.serve.repository import write_model

pytestmark = pytest.mark.skipif(not TRITON, reason=REASON)

BUNDLE, FILES, SPARED = "fashion-mnist", "fashion-mnist-files", "fashion-mnist-spared"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Both kinds of model, that of files from before `--spare-clean`, and one that spares and has no suspicion."""
    work = tmp_path_factory.mktemp("triton")
    bundle, repository = Bundle.open(BUNDLE), work / "repository"
    write_model(bundle, repository, Serving(**WAY))
    write_model(bundle, repository, Serving(name=FILES, files=True, **WAY))
    config = repository / FILES / CONFIG
    config.write_text("".join(line for line in config.open() if '"spare_clean"' not in line))
    manifest = Path(shutil.copytree(bundle.path, work / "bundle")) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"suspicion": None}))
    write_model(Bundle.open(manifest.parent), repository, Serving(name=SPARED, spare_clean=True, **WAY))
    with servers(repository, work, 1) as (only,):
        yield only


@pytest.fixture(scope="module")
def golden() -> dict[str, GoldenSplit]:
    return load_golden(Bundle.open(BUNDLE))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_golden_set_is_answered_as_pytorch_does(
    server: Server, golden: dict[str, GoldenSplit], protocol: str
) -> None:
    client, same = server.client(protocol), 0
    with Pipeline.load(BUNDLE, **WAY) as pipeline:
        for split in golden.values():
            for start in range(0, len(split), 64):
                images = split.images[start : start + 64]
                found, expected = infer(client, protocol, BUNDLE, "images", images), pipeline.predict(images)
                same += int((found.as_numpy("label")[:, 0] == split.defended[start : start + 64].argmax(axis=1)).sum())
                assert expected.suspicion is not None
                np.testing.assert_allclose(found.as_numpy("suspicion")[:, 0], expected.suspicion, rtol=1e-6, atol=1e-6)
                np.testing.assert_array_equal(found.as_numpy("suspicious")[:, 0], expected.suspicious)
                np.testing.assert_allclose(found.as_numpy("probabilities"), expected.probabilities, rtol=0, atol=1e-6)
                purified = expected.purified.transpose(0, 2, 3, 1) * 255
                assert np.abs(found.as_numpy("purified") - purified).max() <= 0.51
    assert same == sum(map(len, golden.values()))


def test_clean_images_are_spared_as_by_the_pipeline(server: Server, golden: dict[str, GoldenSplit]) -> None:
    client, changed, counted = server.client("grpc"), 0, 0
    name = "purify_changed_total", frozenset({("model", SPARED), ("version", "1")})
    before = metrics(server)[name]
    with Pipeline.load(BUNDLE, spare_clean=True, **WAY) as pipeline:
        for split in golden.values():
            for start in range(0, len(split), 64):
                images = split.images[start : start + 64]
                found, expected = infer(client, "grpc", SPARED, "images", images), pipeline.predict(images)
                np.testing.assert_array_equal(found.as_numpy("spared")[:, 0], expected.spared)
                np.testing.assert_array_equal(found.as_numpy("label")[:, 0], expected.labels)
                np.testing.assert_allclose(found.as_numpy("probabilities"), expected.probabilities, rtol=0, atol=1e-6)
                changed += int((expected.labels != split.defended[start : start + 64].argmax(axis=1)).sum())
                counted += int((pipeline.classify(images).argmax(axis=1) != expected.labels).sum())
    assert changed > 0
    assert metrics(server)[name] - before == counted > 0


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_files_are_read_as_everywhere(server: Server, protocol: str) -> None:
    opened = Bundle.open(BUNDLE)
    files = load_files(opened)
    assert files is not None
    contents = list(files.files.values())
    found = infer(server.client(protocol), protocol, FILES, "files", np.array(contents, object)[:, None])
    pixels = np.stack([decode_image(content, opened.manifest.input, source="file") for content in contents])
    with Pipeline.load(opened, **WAY) as pipeline:
        np.testing.assert_allclose(found.as_numpy("probabilities"), pipeline.predict(pixels).probabilities, atol=1e-4)


def test_bad_requests_are_refused_and_harm_no_other(server: Server) -> None:
    """One of ten of 5,000 files, of each kind of damage; the good ones are batched with them."""
    files = load_files(Bundle.open(BUNDLE))
    assert files is not None
    good = np.array([[next(iter(files.files.values()))]], object)
    expected = infer(server.client("grpc"), "grpc", FILES, "files", good).as_numpy("label")
    bad = [b"", b"no picture", good[0, 0][:40], b"\x89PNG\r\n\x1a\n" + bytes(60)]

    def ask(index: int, client: Any) -> str:
        given = np.array([[bad[index // 10 % 4]]], object) if index % 10 == 0 else good
        try:
            found = infer(client, "grpc", FILES, "files", given).as_numpy("label")
        except Exception as error:  # of tritonclient
            return str(error.status())  # type: ignore[attr-defined]
        return "right" if np.array_equal(found, expected) else "wrong"

    assert asked_by_many(server, "grpc", ask, 5000) == {"StatusCode.INVALID_ARGUMENT": 500, "right": 4500}


def test_a_long_run_of_mixed_requests_grows_no_process(server: Server, golden: dict[str, GoldenSplit]) -> None:
    split = golden["clean"]
    expected, png = split.defended.argmax(axis=1), [png_of(image) for image in split.images[:64]]

    def ask(index: int, client: Any, protocol: str) -> str:
        at, kind = index % 64, index % 4
        if kind == 0:
            found = infer(client, protocol, FILES, "files", np.array([[png[at]]], object))
        elif kind == 3:
            with pytest.raises(Exception, match=r"\[400\]|INVALID_ARGUMENT"):
                infer(client, protocol, BUNDLE, "images", np.zeros((1, 3, 3, 1), np.uint8))
            return "refused"
        else:  # one image, or several
            found = infer(client, protocol, BUNDLE, "images", split.images[at : at + 1 + 7 * (kind - 1)])
        labels = found.as_numpy("label")[:, 0]
        return "right" if np.array_equal(labels, expected[at : at + len(labels)]) else "wrong"

    def soak(requests: int) -> Counter[str]:
        return sum(
            (asked_by_many(server, way, partial(ask, protocol=way), requests // 2) for way in ("http", "grpc")),
            Counter[str](),
        )

    soak(1000)  # until buffers and pools have their size
    before = resident(server)
    assert soak(4000) == {"right": 3000, "refused": 1000}
    after = resident(server)
    assert after.keys() == before.keys()
    assert {
        name: (after[name] - before[name]) / 2**20 for name in after if after[name] - before[name] > 5 * 2**20
    } == {}


def asked_by_many(server: Server, protocol: str, ask: Callable[[int, Any], str], requests: int) -> Counter[str]:
    """What came of requests by 16 clients at once, each with a connection of its own."""

    def some(client: int) -> Counter[str]:
        connection = server.client(protocol)
        return Counter(ask(index, connection) for index in range(client, requests, 16))

    with ThreadPoolExecutor(16) as threads:
        return sum(threads.map(some, range(16)), Counter[str]())


def resident(server: Server) -> dict[tuple[int, str], int]:
    """Bytes of memory of the server and of each of its processes."""
    root = psutil.Process(server.process.pid)
    family = [of for of in [root, *root.children(recursive=True)] if of.status() != psutil.STATUS_ZOMBIE]
    return {(of.pid, of.name()): of.memory_info().rss - of.memory_info().shared for of in family}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("shape", [(1, 20, 20, 1), (28, 28, 1), (1, 28, 28, 3)])
def test_images_of_another_shape_are_refused(server: Server, protocol: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(Exception, match=r"\[400\]|INVALID_ARGUMENT"):
        infer(server.client(protocol), protocol, BUNDLE, "images", np.zeros(shape, np.uint8))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_models_are_changed_by_nobody_without_the_key(server: Server, protocol: str) -> None:
    client = server.client(protocol)
    for call in (lambda: client.load_model(BUNDLE), lambda: client.unload_model(BUNDLE)):
        with pytest.raises(Exception, match="restricted"):
            call()
    assert client.is_model_ready(BUNDLE)


def test_a_new_version_takes_over_and_a_damaged_one_does_not(server: Server, golden: dict[str, GoldenSplit]) -> None:
    client, images = server.client("grpc"), golden["clean"].images[:4]

    def version() -> str:
        return str(infer(client, "grpc", BUNDLE, "images", images).get_response().model_version)

    assert version() == "1"
    write_model(Bundle.open(BUNDLE), server.repository, Serving(**WAY))
    client.load_model(BUNDLE, headers=KEY["grpc"])
    assert version() == "2"
    third = write_model(Bundle.open(BUNDLE), server.repository, Serving(**WAY))
    model = third / "bundle" / "models" / "purifier.fp32.onnx"
    content = bytearray(model.read_bytes())
    content[1000] ^= 1
    model.write_bytes(content)
    with pytest.raises(Exception, match="expected SHA-256"):
        client.load_model(BUNDLE, headers=KEY["grpc"])
    assert version() == "2"
    shutil.rmtree(third)
    (third / "bundle").mkdir(parents=True)
    other = Bundle.open(BUNDLE)
    shutil.copytree(other.path, third / "bundle", dirs_exist_ok=True)
    text = (server.repository / BUNDLE / "2" / "model.py").read_text()
    (third / "model.py").write_text(text.replace(other.sha256, "0" * 64))
    with pytest.raises(Exception, match="is not the bundle that was put there"):
        client.load_model(BUNDLE, headers=KEY["grpc"])
    assert version() == "2"
    shutil.rmtree(third)


def with_other_answers(work: Path) -> Path:
    """A bundle whose golden answers are those of other images."""
    other = Path(shutil.copytree(Bundle.open(BUNDLE).path, work / "other"))
    splits = {
        name: replace(split, defended=split.defended[::-1]) for name, split in load_golden(Bundle.open(other)).items()
    }
    replace_file(other, "golden.npz", encode_golden(splits))
    return other


def check(server: Server, *options: str, bundle: str = BUNDLE) -> Result:
    arguments = [option.format(**server.ports) for option in options]
    return CliRunner().invoke(check_command, [bundle, "--rounds", "3", *arguments])


@pytest.mark.parametrize(
    "url",
    [
        "grpc://localhost:{grpc}/fashion-mnist",
        "http://localhost:{http}/fashion-mnist-files",
        "http://localhost:{http}/fashion-mnist-spared",
    ],
)
def test_the_check_takes_the_golden_set_through_the_server(server: Server, url: str) -> None:
    found = check(server, "--server", url, "--json")
    assert found.exit_code == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["passed"]
    assert report["version"] in ("1", "2")
    agreements = {of["name"]: of["value"] for of in report["checks"] if of["name"].startswith("agreement")}
    assert agreements == dict.fromkeys(
        [f"agreement, server {of}" for of in ("clean", "adversarial", "noise")]
        + [f"agreement, server, {clients} clients" for clients in (1, 4, 16)],
        1.0,
    )
    assert [(row["clients"], row["n"]) for row in report["latency"]] == [(1, 3), (4, 12), (16, 48)]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in report["latency"])
    assert all(row["failed"] == row["wrong"] == 0 for row in report["latency"])


def test_the_bench_times_clients_at_once_and_tells_of_wrong_answers(server: Server, tmp_path: Path) -> None:
    url = f"grpc://localhost:{server.ports['grpc']}/{BUNDLE}"
    options = ["--server", url, "--rounds", "20", "--clients", "2", "--clients", "8", "--json"]
    found = CliRunner().invoke(bench_command, [BUNDLE, *options])
    assert found.exit_code == 0, found.stderr
    rows = json.loads(found.stdout)["latency"]
    assert [(row["clients"], row["n"], row["failed"], row["wrong"]) for row in rows] == [(2, 40, 0, 0), (8, 160, 0, 0)]
    other = with_other_answers(tmp_path)
    found = CliRunner().invoke(bench_command, [str(other), *options])
    assert found.exit_code == 1
    assert json.loads(found.stdout)["latency"][0]["wrong"] > 20
    assert CliRunner().invoke(bench_command, [BUNDLE, *options, "--batch", "8"]).exit_code == 2


def test_the_study_measures_servers_beside_the_pipeline(server: Server, tmp_path: Path) -> None:
    urls = [f"{name}={name}://localhost:{server.ports[name]}/{BUNDLE}" for name in ("grpc", "http")]
    options = ["--out", str(tmp_path), "--rounds", "2"]
    study(["fashion-mnist", "--server", urls[0], "--server", urls[1], *options])
    found = json.loads((tmp_path / "serving.json").read_text())
    assert list(found["rows"]) == ["grpc", "http", "in process"]
    for rows in found["rows"].values():
        assert [(row["clients"], row["n"]) for row in rows] == [(count, 2 * count) for count in CLIENTS]
        assert all(row["failed"] == row["wrong"] == 0 for row in rows)
    assert (tmp_path / "serving.png").stat().st_size > 10_000
    assert (tmp_path / "serving.md").read_text().count("\n") == 2 + len(CLIENTS)


def test_the_check_finds_a_server_that_runs_another_bundle(server: Server, tmp_path: Path) -> None:
    other = with_other_answers(tmp_path)
    found = check(server, "--server", "grpc://localhost:{grpc}/fashion-mnist", bundle=str(other))
    assert found.exit_code == 1
    assert "agreement, server clean" in found.stdout
    assert "failed" in found.stdout


def test_the_check_says_what_is_not_there(server: Server) -> None:
    port = free_port()
    for url, message in (
        ("grpc://localhost:{grpc}/absent", "absent on localhost"),
        (f"http://localhost:{port}/fashion-mnist", "look at the server's log, and at --server"),
        (f"grpc://localhost:{port}/fashion-mnist", "look at the server's log, and at --server"),
    ):
        found = check(server, "--server", url)
        assert found.exit_code == 2, url
        assert message in found.stderr


@pytest.mark.parametrize("model", [BUNDLE, FILES])
def test_the_health_model_tells_of_a_process_that_died(server: Server, model: str) -> None:
    assert healthy(server, model)
    (stub,) = stubs(server, model)
    os.kill(stub, signal.SIGKILL)
    client = server.client("http")
    wait_for(lambda: not healthy(server, model))
    for step in (client.unload_model, client.load_model):
        step(model, headers=KEY["http"])
    wait_for(lambda: healthy(server, model))


def test_what_the_models_did_is_among_the_metrics(server: Server, golden: dict[str, GoldenSplit]) -> None:
    client, images = server.client("grpc"), golden["adversarial"].images[:32]
    before = metrics(server)
    found = infer(client, "grpc", BUNDLE, "images", images)
    with pytest.raises(Exception, match="file 0"):
        infer(client, "grpc", FILES, "files", np.array([[b"no picture"]], object))
    after = metrics(server)

    def change(name: str, model: str = BUNDLE, **labels: str) -> float:
        def total(of: dict[tuple[str, frozenset[tuple[str, str]]], float]) -> float:
            asked = frozenset(({"model": model} | labels).items())
            return sum(value for (key, having), value in of.items() if key == name and asked <= having)

        return total(after) - total(before)

    assert change("purify_images_total", outcome="good") == 32
    assert change("purify_images_total", outcome="error") == 0
    assert change("purify_suspicious_total") == found.as_numpy("suspicious").sum() > 0
    with Pipeline.load(BUNDLE, **WAY) as pipeline:
        expected = pipeline.predict(images)
    assert expected.unpurified is not None
    assert change("purify_changed_total") == (expected.unpurified.argmax(axis=1) != expected.labels).sum() > 0
    assert change("purify_refused_total", FILES) == 1


def test_the_dashboard_asks_for_metrics_that_are_there(server: Server) -> None:
    write_deployment(server.repository, BUNDLE, Deployment(), contract=Bundle.open(BUNDLE).manifest.input)
    board = json.loads((server.repository / "deploy" / "grafana.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b(?:nv|purify)_\w+", target["expr"])
    }
    assert len(asked) >= 8
    assert asked <= {name for name, _ in metrics(server)} | {"purify_refused_total"}


def healthy(server: Server, model: str) -> bool:
    """Whether the question that HAProxy asks of a model, and what Kubernetes asks of all, are answered well."""
    request = urllib.request.Request(
        f"http://localhost:{server.ports['http']}/v2/models/{model}-health/infer", QUESTION.encode(), method="POST"
    )
    with suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=30) as answer:
        found = json.load(answer)["outputs"][0]["data"] == [True]
        return found and subprocess.run(probe(server), check=False, timeout=30, capture_output=True).returncode == 0
    assert subprocess.run(probe(server), check=False, timeout=30, capture_output=True).returncode != 0
    return False


def probe(server: Server) -> list[str]:
    """The command by which Kubernetes asks whether a container is ready."""
    write_deployment(server.repository, BUNDLE, Deployment(), contract=Bundle.open(BUNDLE).manifest.input)
    deployment, *_ = yaml.safe_load_all((server.repository / "deploy" / "kubernetes.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    command = container["readinessProbe"]["exec"]["command"]
    assert command == container["livenessProbe"]["exec"]["command"]
    return [part.replace("localhost:8000", f"localhost:{server.ports['http']}") for part in command]


def metrics(server: Server) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What is at /metrics, by name and labels."""
    with urllib.request.urlopen(f"http://localhost:{server.ports['metrics']}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found = (re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line) for line in lines)
    return {(of[1], frozenset(re.findall(r'(\w+)="([^"]*)"', of[2] or ""))): float(of[3]) for of in found if of}
