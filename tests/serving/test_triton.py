"""A bundle in a real Triton: `make test-serving` installs one and names its environment in `$PURIFY_TEST_TRITON`."""

import json
import os
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from helpers.bundles import replace as replace_file
from purify_edge import Pipeline
from purify_edge.bundle.golden import GoldenSplit, encode_golden, load_golden
from purify_edge.bundle.golden_files import load_files
from purify_edge.bundle.reader import Bundle
from purify_edge.check.cli import main as check_command
from purify_edge.images.decoding import decode_image
from purify_edge.serve.repository import Serving, write_model

TRITON = os.environ.get("PURIFY_TEST_TRITON")
pytestmark = pytest.mark.skipif(not TRITON, reason="$PURIFY_TEST_TRITON names no environment; run make test-serving")

BUNDLE, FILES = "fashion-mnist", "fashion-mnist-files"
KEY = {"http": {"admin-key": "secret"}, "grpc": {"triton-grpc-protocol-admin-key": "secret"}}
WAY: dict[str, Any] = {"engine": "onnxruntime", "precision": "fp32"}
START_S = 120.0


@dataclass(frozen=True)
class Server:
    """A running server, its repository and its ports."""

    repository: Path
    ports: dict[str, int]
    log: Path

    def client(self, protocol: str, **options: Any) -> Any:
        """A client over `http` or `grpc`."""
        return library(protocol).InferenceServerClient(f"localhost:{self.ports[protocol]}", **options)


def library(protocol: str) -> ModuleType:
    return import_module(f"tritonclient.{protocol}")


def infer(client: Any, protocol: str, model: str, name: str, values: np.ndarray, **options: Any) -> Any:
    kind = "BYTES" if values.dtype == object else "UINT8"
    given = library(protocol).InferInput(name, list(values.shape), kind)
    given.set_data_from_numpy(values)
    return client.infer(model, [given], **options)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [some.getsockname()[1] for some in sockets]
    for some in sockets:
        some.close()
    return ports


def environment(work: Path) -> tuple[dict[str, str], Path]:
    """What Triton needs of the package nvidia-pytriton, and its Python backend with the stub of this Python."""
    (packages,) = Path(TRITON or "").glob("lib/python3.*/site-packages")
    inside, version = packages / "pytriton" / "tritonserver", packages.parent.name.removeprefix("python")
    backend = Path(shutil.copytree(inside / "backends", work / "backends")) / "python"
    shutil.copy(inside / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    (backend / "triton_python_backend_stub").chmod(0o755)
    server = inside / "bin" / "tritonserver"
    server.chmod(0o755)
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    ours = {"LD_LIBRARY_PATH": libraries, "PATH": f"{Path(TRITON or '') / 'bin'}:{os.environ['PATH']}"}
    return os.environ | ours | {"TRITONSERVER": str(server), "PURIFY_ADMIN_KEY": "secret"}, backend.parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with both kinds of model."""
    work = tmp_path_factory.mktemp("triton")
    bundle, repository = Bundle.open(BUNDLE), work / "repository"
    write_model(bundle, repository, Serving(**WAY))
    write_model(bundle, repository, Serving(name=FILES, files=True, **WAY))
    variables, backends = environment(work)
    http, grpc, metrics = free_ports(3)
    ports = [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
    command = [str(repository / "serve.sh"), f"--backend-directory={backends}", *ports]
    log = work / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, env=variables, stdout=file, stderr=subprocess.STDOUT)
    found = Server(repository, {"http": http, "grpc": grpc}, log)
    try:
        deadline = time.monotonic() + START_S
        while not is_ready(found):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-5000:]
            time.sleep(0.2)
        yield found
    finally:
        process.terminate()
        process.wait(60)


def is_ready(server: Server) -> bool:
    with suppress(Exception):  # nobody listens yet
        return bool(server.client("http").is_server_ready())
    return False


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
                np.testing.assert_allclose(found.as_numpy("suspicion")[:, 0], expected.suspicion, rtol=1e-4, atol=1e-4)
                np.testing.assert_array_equal(found.as_numpy("suspicious")[:, 0], expected.suspicious)
                np.testing.assert_allclose(found.as_numpy("probabilities"), expected.probabilities, atol=1e-5)
                purified = expected.purified.transpose(0, 2, 3, 1) * 255
                assert np.abs(found.as_numpy("purified") - purified).max() <= 0.51
    assert same == sum(map(len, golden.values()))


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


def test_a_bad_request_is_refused_and_harms_no_other(server: Server) -> None:
    files = load_files(Bundle.open(BUNDLE))
    assert files is not None
    good, answers = np.array([[next(iter(files.files.values()))]], object), []
    client = server.client("grpc")
    expected = infer(client, "grpc", FILES, "files", good).as_numpy("label")
    bad = [b"", b"no picture", good[0, 0][:40], b"\x89PNG\r\n\x1a\n" + bytes(60)]

    def ask(index: int) -> str:
        given = np.array([[bad[index // 10 % 4]]], object) if index % 10 == 0 else good
        try:
            found = infer(client, "grpc", FILES, "files", given).as_numpy("label")
        except Exception as error:  # of tritonclient
            return str(error.status())  # type: ignore[attr-defined]
        return "right" if np.array_equal(found, expected) else "wrong"

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, range(600)))
    assert answers.count("StatusCode.INVALID_ARGUMENT") == 60
    assert answers.count("right") == 540


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


def check(server: Server, *options: str, bundle: str = BUNDLE) -> Result:
    arguments = [option.format(**server.ports) for option in options]
    return CliRunner().invoke(check_command, [bundle, "--rounds", "3", *arguments])


@pytest.mark.parametrize(
    "url", ["grpc://localhost:{grpc}/fashion-mnist", "http://localhost:{http}/fashion-mnist-files"]
)
def test_the_check_takes_the_golden_set_through_the_server(server: Server, url: str) -> None:
    found = check(server, "--server", url, "--json")
    assert found.exit_code == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["passed"]
    assert report["version"] in ("1", "2")
    agreements = {of["name"]: of["value"] for of in report["checks"] if of["name"].startswith("agreement")}
    assert agreements == dict.fromkeys(
        [f"agreement, server {split}" for split in ("clean", "adversarial", "noise")], 1.0
    )
    assert [(row["clients"], row["n"]) for row in report["latency"]] == [(1, 3), (4, 12), (16, 48)]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in report["latency"])


def test_the_check_finds_a_server_that_runs_another_bundle(server: Server, tmp_path: Path) -> None:
    other = Path(shutil.copytree(Bundle.open(BUNDLE).path, tmp_path / "other"))
    splits = {
        name: replace(split, defended=split.defended[::-1]) for name, split in load_golden(Bundle.open(other)).items()
    }
    replace_file(other, "golden.npz", encode_golden(splits))
    found = check(server, "--server", "grpc://localhost:{grpc}/fashion-mnist", bundle=str(other))
    assert found.exit_code == 1
    assert "agreement, server clean" in found.stdout
    assert "failed" in found.stdout


def test_the_check_says_what_is_not_there(server: Server) -> None:
    (port,) = free_ports(1)
    for url, message in (
        ("grpc://localhost:{grpc}/absent", "absent on localhost"),
        (f"http://localhost:{port}/fashion-mnist", "look at the server's log, and at --server"),
        (f"grpc://localhost:{port}/fashion-mnist", "look at the server's log, and at --server"),
    ):
        found = check(server, "--server", url)
        assert found.exit_code == 2, url
        assert message in found.stderr
