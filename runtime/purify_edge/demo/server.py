"""The server of the page: on this machine alone unless asked, without telemetry, its files in a private folder."""

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from purify_edge.demo.page import STYLE, build_page, theme
from purify_edge.demo.playground import MAX_UPLOAD_BYTES, Playground
from purify_edge.errors import InputError, reason
from purify_edge.extras import require_library

POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "frame-ancestors 'none'",
    )
)
"""What the page may load: what this server has, and what the browser itself made."""

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]


@contextmanager
def prepared(host: str, port: int) -> Iterator[Path]:
    """Import Gradio, and yield the folder for its files; it is removed at the end.

    Raises:
        MissingError: Gradio is not installed.
        InputError: the address is taken or not of this machine.
    """
    _check_free(host, port)
    with _private_folder() as folder:
        require_library("gradio", "demo")
        yield folder


def serve(playground: Playground, folder: Path, *, host: str, port: int, ready: Callable[[str], object]) -> None:
    """Serve the page until SIGTERM or Ctrl-C ends the process.

    Args:
        playground: what it shows.
        folder: for the page's files, from `prepared`.
        host: the address to listen at.
        port: its port.
        ready: called with the page's address when it answers.
    """
    page = build_page(playground, folder)
    try:
        _launch(page, host, port)
        ready(page.local_url)
        _until_told()
    finally:
        page.close(verbose=False)


def _check_free(host: str, port: int) -> None:
    """Raise InputError where nobody can listen: before Gradio is imported, which takes seconds."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        raise InputError(f"{host}, port {port}: {reason(error)}; --host and --port name another address") from error


@contextmanager
def _private_folder() -> Iterator[Path]:
    """Yield a folder that nobody else may read, in which all temporary files lie until it is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="purify-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        before, tempfile.tempdir = tempfile.tempdir, str(folder)
        os.environ["GRADIO_TEMP_DIR"] = str(folder / "files")  # read by Gradio when it is imported
        try:
            yield folder
        finally:
            tempfile.tempdir = before


def _launch(page: Any, host: str, port: int) -> None:
    from starlette.middleware import Middleware

    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MAX_UPLOAD_BYTES,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme(),
        css=STYLE,
        app_kwargs={"middleware": [Middleware(Fence)]},
    )


class Fence:
    """A layer around the server that sends `POLICY` with every answer."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def fenced(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self._app(scope, receive, fenced)


def _until_told() -> None:
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    told.wait()
