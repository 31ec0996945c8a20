"""Counters and latency histograms of a run in Prometheus' text format: served over HTTP, or kept in a file."""

import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from purify_edge.errors import InputError
from purify_edge.extras import require_library
from purify_edge.files import atomic
from purify_edge.run.results import Result

STAGES = ("read", "predict", "write")
SECONDS = tuple(mantissa * 10.0**exponent for exponent in range(-4, 2) for mantissa in (1, 2.5, 5))  # 0.1 ms to 50 s
FILE_INTERVAL_S = 5.0
ADDRESS = re.compile(r"(?:(?P<host>[^/\s]+):)?(?P<port>\d+)")


class Metrics:
    """Where a run tells what it does, which any thread may; here nobody asked."""

    def time(self, stage: str, seconds: float) -> None:
        """Note how long a stage took: `read` for an image, `predict` and `write` for a batch."""

    def batch(self, images: int) -> None:
        """Note how many images ran together."""

    def count(self, results: Iterable[Result]) -> None:
        """Count these images as done."""

    def camera(self, *, dropped: int, returns: int, missed: int) -> None:
        """Note how many frames a camera's run left out or was late with so far, and how often the camera came back."""

    def close(self) -> None:
        """Stop serving, or write the file once more."""


class PrometheusMetrics(Metrics):
    """Metrics of what runs, in a registry of their own.

    Args:
        where: a port, on this machine alone; `HOST:PORT`; or a file, rewritten every few seconds and at the end, for
            the node exporter's textfile collector.
        model, engine: see `Result.model`; the engine's name and where it runs.

    Raises:
        MissingError: prometheus_client is not installed.
        InputError: the port is taken or not allowed.
    """

    def __init__(self, where: str, *, model: str, engine: str) -> None:
        client = self._client = require_library("prometheus_client", "metrics")
        self._registry = client.CollectorRegistry()
        options: dict[str, Any] = {"registry": self._registry}
        client.Info("purify", "What runs.", **options).info({"model": model, "engine": engine})
        self._images = client.Counter("purify_images", "Images, by what came of them.", ["outcome"], **options)
        self._classes = client.Counter("purify_predictions", "Images by predicted class.", ["class"], **options)
        self._changed = client.Counter("purify_changed", "Images whose class purification changed.", **options)
        self._suspicious = client.Counter("purify_suspicious", "Images that were probably attacked.", **options)
        self._dropped = client.Counter(
            "purify_dropped_frames", "Frames of a camera that newer ones replaced.", **options
        )
        self._returns = client.Counter("purify_camera_returns", "Times that a lost camera came back.", **options)
        self._missed = client.Counter(
            "purify_missed_budgets", "Frames of a camera that took longer than --max-latency-ms.", **options
        )
        self._seen = 0, 0, 0
        self._seconds = client.Histogram(
            "purify_stage_seconds",
            "Seconds to read and decode an image; to purify and classify a batch; to write a batch's results.",
            ["stage"],
            buckets=SECONDS,
            **options,
        )
        self._batches = client.Histogram(
            "purify_batch_images", "Images that ran together.", buckets=[2**power for power in range(9)], **options
        )
        for outcome in ("good", "error"):
            self._images.labels(outcome)  # there from the start, at 0
        self._stages = {stage: self._seconds.labels(stage) for stage in STAGES}
        self._stopped = threading.Event()
        self._close = self._serve(where)

    def _serve(self, where: str) -> Any:
        address = ADDRESS.fullmatch(where)
        if address is None:
            return self._keep(Path(where))
        host, port = address["host"] or "127.0.0.1", int(address["port"])
        try:
            server, thread = self._client.start_http_server(port, addr=host, registry=self._registry)
        except (OSError, OverflowError) as error:
            raise InputError(f"--metrics {where}: {getattr(error, 'strerror', None) or error}; take another") from error

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return close

    def _keep(self, path: Path) -> Any:
        path.parent.mkdir(parents=True, exist_ok=True)

        def write() -> None:
            with atomic(path) as temporary:
                temporary.write_bytes(self._client.generate_latest(self._registry))

        def work() -> None:
            while not self._stopped.wait(FILE_INTERVAL_S):
                write()

        def close() -> None:
            self._stopped.set()
            thread.join()
            write()

        write()  # a file that cannot be written is reported before the work
        thread = threading.Thread(target=work, name="metrics", daemon=True)
        thread.start()
        return close

    def time(self, stage: str, seconds: float) -> None:
        """See `Metrics.time`."""
        self._stages[stage].observe(seconds)

    def batch(self, images: int) -> None:
        """See `Metrics.batch`."""
        self._batches.observe(images)

    def count(self, results: Iterable[Result]) -> None:
        """See `Metrics.count`."""
        for result in results:
            self._images.labels("good" if result.error is None else "error").inc()
            if result.error is None:
                self._classes.labels(result.class_name).inc()
                self._changed.inc(result.class_name != result.unpurified_class)
                self._suspicious.inc(bool(result.suspicious))

    def camera(self, *, dropped: int, returns: int, missed: int) -> None:
        """See `Metrics.camera`."""
        now = dropped, returns, missed
        for counter, value, before in zip((self._dropped, self._returns, self._missed), now, self._seen, strict=True):
            counter.inc(value - before)
        self._seen = now

    def close(self) -> None:
        """See `Metrics.close`."""
        self._close()


def open_metrics(where: str | None, *, model: str, engine: str) -> Metrics:
    """Return the metrics that a command line asks for; see `PrometheusMetrics`."""
    return Metrics() if where is None else PrometheusMetrics(where, model=model, engine=engine)
