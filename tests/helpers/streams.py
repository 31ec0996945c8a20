"""Streams as network cameras give them, served on this machine."""

import http.server
import io
import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from PIL import Image

RATE = 40


class MotionJpeg(http.server.BaseHTTPRequestHandler):
    """A stream of JPEGs over HTTP, as network cameras give it: 40 frames in about a second, then its end."""

    frames: Iterable[int] = range(RATE)

    def do_GET(self) -> None:
        file = io.BytesIO()
        Image.new("RGB", (64, 48), (80, 80, 80)).save(file, "JPEG")
        frame = file.getvalue()
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            for _ in self.frames:
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(frame)}\r\n\r\n"
                self.wfile.write(head.encode() + frame + b"\r\n")
                time.sleep(1 / RATE)
        except OSError:
            pass

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving(*, refused: tuple[int, ...] = (), endless: tuple[int, ...] = ()) -> Iterator[str]:
    """Serve the stream, but for the calls of the numbers in `refused`, and without an end in `endless`; its URL."""
    calls = itertools.count()

    class Handler(MotionJpeg):
        def do_GET(self) -> None:
            call = next(calls)
            if call in refused:
                self.send_error(503)
                return
            self.frames = itertools.count() if call in endless else range(RATE)
            super().do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/camera.mjpg"
    finally:
        server.shutdown()
        server.server_close()
