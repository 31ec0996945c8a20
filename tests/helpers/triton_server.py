"""A real Triton, started as docs/serving.md has it; `make test-serving` installs one, see `$PURIFY_TEST_TRITON`."""

import os
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil

from helpers.ports import free_ports

TRITON = os.environ.get("PURIFY_TEST_TRITON")
REASON = "$PURIFY_TEST_TRITON names no environment; run make test-serving"
KEY = {"http": {"admin-key": "secret"}, "grpc": {"triton-grpc-protocol-admin-key": "secret"}}
WAY: dict[str, Any] = {"engine": "onnxruntime", "precision": "fp32"}
START_S = 300.0


@dataclass
class Server:
    """A server, its repository and its ports."""

    repository: Path
    ports: dict[str, int]
    log: Path
    variables: Mapping[str, str]
    process: "subprocess.Popen[bytes]" = field(init=False)

    def client(self, protocol: str, **options: Any) -> Any:
        """A client over `http` or `grpc`."""
        return client(protocol, self.ports[protocol], **options)

    def start(self) -> None:
        """Start it, in a session of its own; it is ready when this returns."""
        command = [str(self.repository / "serve.sh"), f"--backend-directory={self.variables['PURIFY_TEST_BACKENDS']}"]
        command += ["--exit-timeout-secs=5"]  # a model whose process was killed never ends
        command += [f"--{name}-port={port}" for name, port in self.ports.items()]
        with self.log.open("a") as file:
            self.process = subprocess.Popen(
                command, env=self.variables, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while not self.is_ready():
            assert self.process.poll() is None, self.log.read_text()[-5000:]
            assert time.monotonic() < deadline, self.log.read_text()[-5000:]
            time.sleep(0.2)

    def is_ready(self) -> bool:
        with suppress(Exception):  # nobody listens yet
            return bool(self.client("http").is_server_ready())
        return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(300)


def library(protocol: str) -> ModuleType:
    return import_module(f"tritonclient.{protocol}")


def client(protocol: str, port: int, **options: Any) -> Any:
    return library(protocol).InferenceServerClient(f"localhost:{port}", **options)


def infer(client: Any, protocol: str, model: str, name: str, values: np.ndarray, **options: Any) -> Any:
    kind = "BYTES" if values.dtype == object else "UINT8"
    given = library(protocol).InferInput(name, list(values.shape), kind)
    given.set_data_from_numpy(values)
    return client.infer(model, [given], **options)


def environment(work: Path) -> dict[str, str]:
    """What Triton needs of nvidia-pytriton: libraries, and the Python backend with the stub of this Python."""
    (packages,) = Path(TRITON or "").glob("lib/python3.*/site-packages")
    inside, version = packages / "pytriton" / "tritonserver", packages.parent.name.removeprefix("python")
    backend = Path(shutil.copytree(inside / "backends", work / "backends")) / "python"
    shutil.copy(inside / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    (backend / "triton_python_backend_stub").chmod(0o755)
    server = inside / "bin" / "tritonserver"
    server.chmod(0o755)
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    ours = {"LD_LIBRARY_PATH": libraries, "PATH": f"{Path(TRITON or '') / 'bin'}:{os.environ['PATH']}"}
    ours |= {"TRITONSERVER": str(server), "PURIFY_ADMIN_KEY": "secret", "PURIFY_TEST_BACKENDS": str(backend.parent)}
    return os.environ | ours


@contextmanager
def servers(repository: Path, work: Path, count: int) -> Iterator[list[Server]]:
    """So many servers of a repository, which are stopped at the end."""
    variables, ports = environment(work), iter(free_ports(3 * count))
    found = [
        Server(repository, dict(zip(("http", "grpc", "metrics"), ports, strict=False)), work / f"log{index}", variables)
        for index in range(count)
    ]
    try:
        for server in found:
            server.start()
        yield found
    finally:
        for server in found:
            if hasattr(server, "process"):
                server.stop()


def stubs(server: Server, model: str) -> list[int]:
    """The processes in which a server runs a model."""
    family = psutil.Process(server.process.pid).children(recursive=True)
    alive = [of for of in family if of.status() != psutil.STATUS_ZOMBIE]
    return [of.pid for of in alive if f"/{model}/" in " ".join(of.cmdline())]
