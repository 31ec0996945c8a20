"""docs/serving.md: from a bundle to two servers behind a balancer, word for word."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from helpers.processes import wait_for
from helpers.project import REPOSITORY
from helpers.triton_server import REASON, TRITON, client, environment, infer

pytestmark = [
    pytest.mark.skipif(not TRITON, reason=REASON),
    pytest.mark.skipif(
        not shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin"), reason="no haproxy here"
    ),
]
PORTS = (8000, 8001, 8002, 8010, 8011, 8012, 8100, 8101)


def is_taken(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
        return True
    return False


@pytest.fixture
def commands() -> str:
    """The first block of the page; at most ten commands."""
    (block, *_) = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "docs" / "serving.md").read_text(), re.DOTALL)
    assert len(block.splitlines()) <= 10
    return str(block)


@pytest.fixture
def variables(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with `tritonserver`, our commands and HAProxy on the path; its ports are free."""
    if any(map(is_taken, PORTS)):
        pytest.skip(f"one of the ports {', '.join(map(str, PORTS))} is taken here")
    found = environment(tmp_path)
    (tmp_path / "bin").mkdir()
    server = tmp_path / "bin" / "tritonserver"
    server.write_text(
        "#!/bin/sh\n"
        f"export LD_LIBRARY_PATH='{found['LD_LIBRARY_PATH']}' PATH='{found['PATH']}'\n"
        f"exec '{found['TRITONSERVER']}' --backend-directory='{found['PURIFY_TEST_BACKENDS']}' \"$@\"\n"
    )
    server.chmod(0o755)
    path = f"{server.parent}:{Path(sys.executable).parent}:/usr/local/sbin:/usr/sbin:{os.environ['PATH']}"
    yield dict(os.environ) | {"PATH": path}


def test_the_commands_of_the_page_work(commands: str, variables: dict[str, str], tmp_path: Path) -> None:
    script = f"{commands}\necho done; sleep infinity"
    process = subprocess.Popen(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line == "done\n":
                break
        else:
            pytest.fail("".join(said)[-5000:])
        for port in (8001, 8011):
            found = infer(client("grpc", port), "grpc", "fashion-mnist", "images", np.zeros((1, 28, 28, 1), np.uint8))
            assert found.get_response().model_version == "2"
        assert any("passed" in line for line in said)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(300)
        wait_for(lambda: not any(map(is_taken, PORTS)))
