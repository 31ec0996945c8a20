"""Two real Tritons behind a real HAProxy: what is lost when something breaks or changes under load."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.ports import free_ports
from helpers.processes import wait_for
from helpers.triton_server import KEY, REASON, TRITON, WAY, Server, client, infer, servers, stubs
from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.serve.config import Serving
from purify_edge.serve.deployment import Deployment, write_deployment
from purify_edge.serve.repository import write_model

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
pytestmark = [
    pytest.mark.skipif(not TRITON, reason=REASON),
    pytest.mark.skipif(not HAPROXY, reason="there is no haproxy; install it, with apt-get say"),
]

BUNDLE = "fashion-mnist"
REQUESTS, CLIENTS = 1600, 8
RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "INTERNAL"],
            },
        }
    ]
}
"""As docs/serving.md has it."""


@dataclass
class Balanced:
    """Two servers of one repository, and the balancer before them."""

    servers: list[Server]
    ports: dict[str, int]
    socket: Path
    golden: GoldenSplit

    def client(self, protocol: str) -> Any:
        options = {"channel_args": [("grpc.service_config", json.dumps(RETRIES))]} if protocol == "grpc" else {}
        return client(protocol, self.ports[protocol], **options)

    def told(self, command: str) -> str:
        """What HAProxy answers to a command on its socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            connection.sendall(f"{command}\n".encode())
            return connection.makefile().read()

    def state(self, index: int, state: str) -> None:
        for backend in ("http", "grpc"):
            self.told(f"set server {backend}/server{index + 1} state {state}")

    def is_up(self, index: int) -> bool:
        rows = self.told("show stat").splitlines()
        return all(
            any(f"{backend},server{index + 1}," in row and ",UP," in row for row in rows) for backend in self.ports
        )

    def under_load(self, change: Callable[[], None]) -> Counter[str]:
        """What came of requests over both protocols, while something changed."""
        left, lock = iter(range(REQUESTS)), threading.Lock()
        started = threading.Event()
        expected = self.golden.defended.argmax(axis=1)

        def ask(protocol: str) -> Counter[str]:
            found, asking = Counter[str](), self.client(protocol)
            while True:
                with lock:
                    index = next(left, None)
                if index is None:
                    return found
                if index == REQUESTS // 4:
                    started.set()
                at = index % len(expected)
                try:
                    answer = infer(asking, protocol, BUNDLE, "images", self.golden.images[at : at + 1])
                except Exception as error:  # of tritonclient, gRPC or a socket
                    found[f"lost over {protocol}: {error}"] += 1
                else:
                    found["right" if answer.as_numpy("label")[0, 0] == expected[at] else f"wrong over {protocol}"] += 1

        with ThreadPoolExecutor(CLIENTS) as threads:
            asking = [threads.submit(ask, protocol) for protocol in ("http", "grpc") * (CLIENTS // 2)]
            assert started.wait(300)
            try:
                change()
            finally:
                found = sum((of.result() for of in asking), Counter[str]())
        return found


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balanced]:
    work = tmp_path_factory.mktemp("balanced")
    bundle, repository = Bundle.open(BUNDLE), work / "repository"
    write_model(bundle, repository, Serving(**WAY))
    with servers(repository, work, 2) as both:
        replicas = tuple(f"127.0.0.1:{server.ports['http']}:{server.ports['grpc']}" for server in both)
        write_deployment(repository, BUNDLE, Deployment(replicas=replicas), contract=bundle.manifest.input)
        http, grpc = free_ports(2)
        found = Balanced(both, {"http": http, "grpc": grpc}, work / "socket", load_golden(bundle)["clean"])
        variables = {
            "PURIFY_HTTP_PORT": str(http),
            "PURIFY_GRPC_PORT": str(grpc),
            "PURIFY_HAPROXY_SOCKET": str(found.socket),
        }
        command = [str(HAPROXY), "-f", str(repository / "deploy" / "haproxy.cfg")]
        process = subprocess.Popen(command, env=os.environ | variables)
        try:
            wait_for(found.socket.exists)
            wait_for(lambda: found.is_up(0) and found.is_up(1))
            yield found
        finally:
            process.terminate()
            process.wait(300)


@pytest.fixture(autouse=True)
def whole(balanced: Balanced) -> Iterator[None]:
    """Both servers answer again after each test."""
    yield
    for index, server in enumerate(balanced.servers):
        if server.process.poll() is not None:
            server.start()
        balanced.state(index, "ready")
        wait_for(lambda index=index: balanced.is_up(index))


def test_a_killed_server_loses_nothing(balanced: Balanced) -> None:
    first = balanced.servers[0]

    def kill() -> None:
        os.killpg(first.process.pid, signal.SIGKILL)
        first.process.wait()

    assert balanced.under_load(kill) == {"right": REQUESTS}


def test_a_killed_model_loses_nothing(balanced: Balanced) -> None:
    first = balanced.servers[0]

    def kill() -> None:
        (stub,) = stubs(first, BUNDLE)
        os.kill(stub, signal.SIGKILL)

    assert balanced.under_load(kill) == {"right": REQUESTS}
    wait_for(lambda: not balanced.is_up(0))
    admin = first.client("grpc")
    for step in (admin.unload_model, admin.load_model):
        step(BUNDLE, headers=KEY["grpc"])


def test_a_drained_server_can_be_stopped(balanced: Balanced) -> None:
    first = balanced.servers[0]

    def stop() -> None:
        balanced.state(0, "drain")
        wait_for(lambda: sessions(balanced, "server1") == 0)
        first.stop()

    assert balanced.under_load(stop) == {"right": REQUESTS}


def sessions(balanced: Balanced, server: str) -> int:
    """Requests that HAProxy has under way on a server."""
    header, *rows = (line.split(",") for line in balanced.told("show stat").lstrip("# ").splitlines() if line)
    return sum(int(row[header.index("scur")]) for row in rows if row[1] == server)


def test_versions_change_under_load(balanced: Balanced) -> None:
    repository = balanced.servers[0].repository

    def load() -> None:
        for server in balanced.servers:
            server.client("grpc").load_model(BUNDLE, headers=KEY["grpc"])

    def version() -> str:
        found = infer(balanced.client("grpc"), "grpc", BUNDLE, "images", balanced.golden.images[:1])
        return str(found.get_response().model_version)

    def change() -> None:
        write_model(Bundle.open(BUNDLE), repository, Serving(**WAY))
        load()

    assert version() == "1"
    assert balanced.under_load(change) == {"right": REQUESTS}
    assert version() == "2"

    def damage() -> None:
        third = write_model(Bundle.open(BUNDLE), repository, Serving(**WAY))
        model = third / "bundle" / "models" / "purifier.fp32.onnx"
        model.write_bytes(model.read_bytes()[:-1] + b"\0")
        with pytest.raises(Exception, match="expected SHA-256"):
            load()
        shutil.rmtree(third)

    assert balanced.under_load(damage) == {"right": REQUESTS}
    assert version() == "2"

    def go_back() -> None:
        shutil.rmtree(repository / BUNDLE / "2")
        load()

    assert balanced.under_load(go_back) == {"right": REQUESTS}
    assert version() == "1"


@pytest.mark.parametrize("key", [{}, KEY["http"]])
def test_nobody_loads_models_through_the_balancer(balanced: Balanced, key: dict[str, str]) -> None:
    address = f"http://localhost:{balanced.ports['http']}/v2/repository/models/{BUNDLE}/unload"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(address, b"{}", key, method="POST"), timeout=30)
    with pytest.raises(Exception, match=r"403|PERMISSION_DENIED"):
        balanced.client("grpc").unload_model(BUNDLE, headers=KEY["grpc"])
    assert np.array_equal(
        infer(balanced.client("http"), "http", BUNDLE, "images", balanced.golden.images[:4]).as_numpy("label")[:, 0],
        balanced.golden.defended[:4].argmax(axis=1),
    )
