"""purify-check --server, where no server answers; tests/serving has one that does."""

import socket
from collections.abc import Iterator

import pytest

from purify_edge.check import server
from purify_edge.errors import InputError

pytest.importorskip("tritonclient")


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of somebody who takes connections and says nothing."""
    with socket.create_server(("localhost", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_says_nothing_is_not_waited_for_without_end(
    protocol: str, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TIMEOUT_S", 0.5)
    model = server.Model.of(f"{protocol}://localhost:{silent}/pair")
    with pytest.raises(InputError, match=r"pair on localhost:\d+: .*look at the server's log, and at --server"):
        model.input(model.client())


@pytest.mark.parametrize(
    "url", ["localhost:8001/pair", "grpc://localhost/pair", "grpc://localhost:8001", "ftp://a:1/b"]
)
def test_what_is_no_address_of_a_model_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="is no address of a model; expected grpc://HOST:PORT/MODEL"):
        server.Model.of(url)
