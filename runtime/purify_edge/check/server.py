"""The check of a server: the golden set over the wire, beside PyTorch's answers, and how long single images take."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Check
from purify_edge.check.limits import (
    MAX_ERROR,
    MIN_AGREEMENT,
    NOISE,
    Limits,
    agreement,
    at_most,
    share_at_most,
)
from purify_edge.document.model import Document, Section, Table, TableRow, table
from purify_edge.errors import InputError, reason
from purify_edge.extras import require_library
from purify_edge.images.arrays import as_batch
from purify_edge.images.pictures import png_of
from purify_edge.pipeline.prediction import answers_of
from purify_edge.pipeline.sparing import is_spared, spare
from purify_edge.pipeline.suspicion import is_suspicious, suspicion_of
from purify_edge.stats import agreeing, agreeing_classes, relative_error

URL = re.compile(r"(?P<protocol>grpc|http)://(?P<host>[^/]+:\d+)/(?P<model>[^/]+)(?:/(?P<version>\d+))?/?")
EXPECTED = "expected grpc://HOST:PORT/MODEL or http://HOST:PORT/MODEL, perhaps with /VERSION"
BATCH = 32
CLIENTS = (1, 4, 16)
KINDS = 64
"""Different images that clients ask for."""
TIMEOUT_S = 60.0
LOSSY = "bf16"
"""A server does not tell in which precision it computes: its limits are those of the least one."""

Images = NDArray[np.uint8]
Outputs = Mapping[str, NDArray[Any]]


class ClientsRow(msgspec.Struct, frozen=True, kw_only=True):
    """How long single images took, requested by so many clients at once, `n` times in all.

    Some of these may have failed, or got another class than PyTorch's or one that ties with it.
    """

    clients: int
    n: int
    failed: int
    wrong: int
    p50_ms: float
    p99_ms: float
    images_per_s: float

    @property
    def agreement(self) -> float:
        """Return the share of the images that got PyTorch's class, or one that ties with it."""
        return 1 - (self.failed + self.wrong) / self.n

    @property
    def is_broken(self) -> bool:
        """Return whether requests failed, or got other classes more often than any precision may."""
        return self.failed > 0 or self.agreement < MIN_AGREEMENT[LOSSY]


class ServerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a server made of a bundle's golden set; `version` is that of the model which answered."""

    url: str
    version: str
    checks: tuple[Check, ...]
    latency: tuple[ClientsRow, ...]
    passed: bool


@dataclass(frozen=True)
class Model:
    """A model of a server that speaks Triton's protocol (KServe v2): one of `purify-serve`, or a served graph.

    Attributes:
        library: tritonclient's module for the protocol.
        host: host and port.
        name: of the model.
        version: empty for the one that the server takes.
    """

    library: Any
    host: str
    name: str
    version: str

    @classmethod
    def of(cls, url: str) -> "Model":
        """Return the model that an address names.

        Raises:
            InputError: it is no such address.
            MissingError: tritonclient is not installed.
        """
        match = URL.fullmatch(url)
        if match is None:
            raise InputError(f"--server {url} is no address of a model; {EXPECTED}")
        library = require_library(f"tritonclient.{match['protocol']}", "serve")
        return cls(library, match["host"], match["model"], match["version"] or "")

    def client(self) -> Any:
        """Return a connection of its own: those of HTTP are not for several threads."""
        waits = {} if self._each else {"connection_timeout": TIMEOUT_S, "network_timeout": TIMEOUT_S}
        return self.library.InferenceServerClient(self.host, **waits)

    @property
    def _each(self) -> dict[str, float]:
        """The timeout that each call over gRPC gets; over HTTP the client gets it once."""
        return {"client_timeout": TIMEOUT_S} if self.library.__name__.endswith("grpc") else {}

    def told(self, error: Exception) -> InputError:
        """Return what the server or its client said as an error for the user."""
        return InputError(f"{self.name} on {self.host}: {reason(error)}; look at the server's log, and at --server")

    def input(self, client: Any) -> tuple[str, str]:
        """Return name and data type of the model's input."""
        try:
            found = client.get_model_metadata(self.name, self.version, **self._each)
        except Exception as error:  # of tritonclient, gRPC or a socket
            raise self.told(error) from error
        inputs = found["inputs"] if isinstance(found, dict) else found.inputs
        named = [(of["name"], of["datatype"]) if isinstance(of, dict) else (of.name, of.datatype) for of in inputs]
        if len(named) != 1:
            raise InputError(f"{self.name} takes {', '.join(name for name, _ in named)}; expected a bundle's one input")
        return named[0]

    def ask(self, client: Any, name: str, kind: str, values: NDArray[Any]) -> tuple[Outputs, str]:
        """Return the outputs for some images, and the version that gave them."""
        given = self.library.InferInput(name, list(values.shape), kind)
        given.set_data_from_numpy(values)
        try:
            result = client.infer(self.name, [given], self.version, **self._each)
        except Exception as error:  # likewise
            raise self.told(error) from error
        response = result.get_response()
        if isinstance(response, dict):
            names, version = [output["name"] for output in response["outputs"]], response["model_version"]
        else:
            names, version = [output.name for output in response.outputs], response.model_version
        return {output: result.as_numpy(output) for output in names}, str(version)


def check_server(bundle: Bundle, url: str, *, limits: Limits, rounds: int, tell: Callable[[str], None]) -> ServerReport:
    """Send the golden set to a server, compare its answers with PyTorch's, and time single images.

    Args:
        bundle: the one that the server is to run.
        url: see EXPECTED.
        limits: what must hold; a latency limit is that of one client.
        rounds: images that each client asks for; 0 for no timing.
        tell: told what is being done.

    Raises:
        InputError: no such server or model, or one that takes or gives something else.
        MissingError: tritonclient is not installed.
        BundleError: the bundle is damaged.
    """
    model = Model.of(url)
    golden, checks, versions = load_golden(bundle), list[Check](), set[str]()
    with closing(model.client()) as client:
        name, kind = model.input(client)
        encode = _encoder(bundle, model, kind)
        for split_name, split in golden.items():
            tell(f"parity: {split_name}")
            parts = []
            for start in range(0, len(split), BATCH):
                outputs, version = model.ask(client, name, kind, encode(split.images[start : start + BATCH]))
                versions.add(version)
                parts.append(outputs)
            found = {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}
            checks += _checks(bundle, model, split_name, split, found, limits)
    latency = time_server(bundle, url, clients=CLIENTS, rounds=rounds, tell=tell) if rounds else []
    least = MIN_AGREEMENT[LOSSY] if limits.min_agreement is None else limits.min_agreement
    for row in latency:
        who = f"server, {row.clients} clients"
        checks += [at_most(f"failed requests, {who}", row.failed, 0), agreement(row.agreement, row.n, least, who)]
    if limits.max_latency_ms is not None and latency:
        checks.append(at_most("median latency in ms, one client", latency[0].p50_ms, limits.max_latency_ms))
    return ServerReport(
        url=url,
        version=", ".join(sorted(versions)),
        checks=tuple(checks),
        latency=tuple(latency),
        passed=all(check.passed for check in checks),
    )


def _encoder(bundle: Bundle, model: Model, kind: str) -> Callable[[Images], NDArray[Any]]:
    """Return what makes of uint8 `[N, H, W, C]` what the model takes."""
    encoders: dict[str, Callable[[Images], NDArray[Any]]] = {
        "UINT8": lambda images: images,
        "FP32": lambda images: as_batch(images, bundle.manifest.input),
        "BYTES": lambda images: np.array([[png_of(image)] for image in images], object),
    }
    if kind not in encoders:
        raise InputError(f"{model.name} takes {kind}; expected one of {', '.join(encoders)}, as a bundle's model does")
    return encoders[kind]


def _checks(
    bundle: Bundle, model: Model, name: str, split: GoldenSplit, found: Outputs, limits: Limits
) -> Iterator[Check]:
    said = _answers(model, found, split.defended.shape)
    reference, n = _reference(bundle, model, split, found), len(split)
    expected = reference.argmax(axis=1)
    least = MIN_AGREEMENT[LOSSY] if limits.min_agreement is None else limits.min_agreement
    yield agreement(float(agreeing(said, reference).mean()), n, least, f"server {name}")
    if name != NOISE:
        drop = float((expected == split.labels).mean() - (said == split.labels).mean())
        yield share_at_most("accuracy drop", f"server {name}", drop, limits.max_accuracy_drop, n)
    if "purified" in found:
        purified = found["purified"][: len(split.purified)]
        if purified.dtype == np.uint8:
            purified = purified.transpose(0, 3, 1, 2).astype(np.float32) / 255
        error = relative_error(purified, split.purified)
        limit = MAX_ERROR[LOSSY] if limits.max_error is None else limits.max_error
        yield at_most(f"relative error of purified, server {name}", error, limit)
    entry = bundle.manifest.suspicion
    if entry and "suspicion" in found:
        scores = suspicion_of(split.classifier, split.defended, entry.score)
        shares = [is_suspicious(of.reshape(-1), entry.threshold).mean() for of in (found["suspicion"], scores)]
        change = float(abs(shares[0] - shares[1]))
        yield share_at_most("change of what is suspicious", f"server {name}", change, limits.max_flagged_change, n)
    sparing = bundle.manifest.spare
    if sparing and "spared" in found:
        share = is_spared(split.classifier, split.defended, sparing).mean()
        change = float(abs(found["spared"].mean() - share))
        yield share_at_most("change of what is spared", f"server {name}", change, limits.max_flagged_change, n)


def _answers(model: Model, found: Outputs, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the classes `[N]` that a model names, of whose probabilities the bundle has the shape `[N, K]`."""
    if "probabilities" not in found:
        raise InputError(f"{model.name} gives {', '.join(found)}; expected probabilities, as a bundle's model does")
    probabilities = found["probabilities"]
    if probabilities.shape != shape:
        raise InputError(
            f"{model.name} gives {list(probabilities.shape)} probabilities, the bundle has {list(shape)}: it is "
            "another bundle's"
        )
    return answers_of(probabilities)


def _reference(bundle: Bundle, model: Model, split: GoldenSplit, found: Outputs) -> NDArray[np.float32]:
    """Return PyTorch's logits `[N, K]` that answer, for a model with these outputs: it may spare clean images."""
    if "spared" not in found:
        return split.defended
    if bundle.manifest.spare is None:
        raise InputError(
            f"{model.name} spares clean images, and {bundle.path} has no threshold for that: the server runs another "
            "bundle; give that one"
        )
    return spare(split.classifier, split.defended, bundle.manifest.spare)


Answers = Iterator[tuple[float, bool | None]]
"""Each image's milliseconds, and whether it got PyTorch's class or a tie with it; None where it got no answer."""


def time_server(
    bundle: Bundle, url: str, *, clients: Sequence[int], rounds: int, tell: Callable[[str], None]
) -> list[ClientsRow]:
    """Time single golden images, requested by several clients at once.

    Args:
        bundle, url, tell: as of `check_server`.
        clients: how many at once, a row each.
        rounds: images that each client asks for.

    Raises:
        InputError, MissingError, BundleError: as of `check_server`.
    """
    model, split = Model.of(url), next(iter(load_golden(bundle).values()))
    with closing(model.client()) as client:
        name, kind = model.input(client)
        encode = _encoder(bundle, model, kind)
        images = [encode(split.images[at : at + 1]) for at in range(min(len(split), KINDS))]
        outputs, _ = model.ask(client, name, kind, images[0])
    agrees = agreeing_classes(_reference(bundle, model, split, outputs))
    _answers(model, outputs, agrees[:1].shape)

    def ask(first: int) -> Answers:
        with closing(model.client()) as client:
            model.ask(client, name, kind, images[0])  # which connects
            for at in range(first, first + rounds):
                start, index = time.perf_counter(), at % len(images)
                try:
                    found, _ = model.ask(client, name, kind, images[index])
                    said = _answers(model, found, agrees[:1].shape)[0]
                    right = bool(said >= 0 and agrees[index, said])
                except InputError:
                    right = None
                yield 1000 * (time.perf_counter() - start), right

    rows = []
    for count in clients:
        tell(f"latency: {count} clients")
        rows.append(clients_row(ask, count))
    return rows


def clients_row(ask: Callable[[int], Answers], clients: int) -> ClientsRow:
    """Let several clients ask at once, each in its own thread; `ask` gets the client's number."""
    with ThreadPoolExecutor(clients) as threads:
        start = time.perf_counter()
        asking = [threads.submit(lambda first: list(ask(first)), first) for first in range(clients)]
        answers = [answer for of in asking for answer in of.result()]
        seconds = time.perf_counter() - start
    p50, p99 = (float(value) for value in np.percentile([taken for taken, _ in answers], [50, 99]))
    failed, wrong = (sum(right is of for _, right in answers) for of in (None, False))
    per_s = len(answers) / seconds
    return ClientsRow(
        clients=clients, n=len(answers), failed=failed, wrong=wrong, p50_ms=p50, p99_ms=p99, images_per_s=per_s
    )


def document_of(report: ServerReport) -> Document:
    """Return the verdict, the limits and the latencies of a report."""
    limits = [
        TableRow((check.name, f"{check.value:.4g}", f"{check.limit:.4g}"), broken=not check.passed)
        for check in report.checks
    ]
    sections = [Section("Limits", (table("What must hold", ("limit", "measured", "limit"), limits),))]
    if report.latency:
        sections.append(Section("Latency", (table_of(report.latency),)))
    verdict = "passed" if report.passed else "failed"
    return Document(title=f"{report.url}: {verdict}", subtitle=f"version {report.version}", sections=tuple(sections))


def table_of(rows: Sequence[ClientsRow]) -> Table:
    """Return the rows as a table."""
    columns = ("clients", "images", "failed", "wrong", "p50 ms", "p99 ms", "images/s")
    lines = [
        (
            *(str(count) for count in (row.clients, row.n, row.failed, row.wrong)),
            *(f"{value:.2f}" for value in (row.p50_ms, row.p99_ms)),
            f"{row.images_per_s:.0f}",
        )
        for row in rows
    ]
    return table("Single images, by clients at once", columns, lines)
