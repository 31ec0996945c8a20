"""Measure servers by the clients that ask at once, beside the pipeline in one process.

python -m lab.serving BUNDLE --server NAME=URL [--server NAME=URL ...] --out FOLDER [--rounds 200]

Each URL is that of a model that runs the bundle, as of `purify-check --server`. Clients ask for one golden image at a
time, all from one process of Python on this machine, which takes a part of what it measures; `in process` is
`Pipeline.predict`, called by as many threads. The contestants take turns, one number of clients after the other. Writes
serving.json, serving.md and serving.png. It ends with 1 where a request fails or too many get another class.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from matplotlib.figure import Figure

from lab.studies.common import guarded, markdown, positive, study_parser, write_results
from purify_edge import Pipeline
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.check.server import Answers, ClientsRow, clients_row, time_server
from purify_edge.errors import InputError
from purify_edge.files import atomic
from purify_edge.machine import environment

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
IN_PROCESS = "in process"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = study_parser(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--server", action="append", required=True, metavar="NAME=URL", dest="servers")
    parser.add_argument("--engine", default="auto", help="of the pipeline in this process")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=positive, default=200, help="images that each client asks for")
    options = parser.parse_args(arguments)
    servers = dict(_named(server) for server in options.servers)
    bundle = Bundle.open(options.bundle)
    rows: dict[str, list[ClientsRow]] = {name: [] for name in (*servers, IN_PROCESS)}
    with Pipeline.load(bundle, engine=options.engine) as pipeline:
        for clients in CLIENTS:
            for name, url in servers.items():
                rows[name] += time_server(bundle, url, clients=[clients], rounds=options.rounds, tell=_tell)
            rows[IN_PROCESS].append(_in_process(pipeline, bundle, clients, options.rounds))
        plan = str(pipeline.plan)
    plot(rows, options.out / "serving.png")
    found = {"environment": environment({}), "plan": plan, "rounds": options.rounds, "rows": msgspec.to_builtins(rows)}
    write_results(options.out, "serving", found, table(rows))
    print(table(rows), end="")
    if any(row.is_broken for of in rows.values() for row in of):
        raise SystemExit(1)


def _named(server: str) -> tuple[str, str]:
    name, _, url = server.partition("=")
    if not name or not url:
        raise InputError(f"--server {server}: expected NAME=URL, like one=grpc://localhost:8001/fashion-mnist")
    return name, url


def _tell(text: str) -> None:
    print(f"  {text}", file=sys.stderr)


def _in_process(pipeline: Pipeline, bundle: Bundle, clients: int, rounds: int) -> ClientsRow:
    split = next(iter(load_golden(bundle).values()))
    expected = split.defended.argmax(axis=1)

    def ask(first: int) -> Answers:
        for at in range(first, first + rounds):
            start, index = time.perf_counter(), at % len(split)
            label = int(pipeline.predict(split.images[index : index + 1]).labels[0])
            yield 1000 * (time.perf_counter() - start), label == expected[index]

    return clients_row(ask, clients)


def table(rows: dict[str, list[ClientsRow]]) -> str:
    """Return images a second and the latencies as Markdown, a line for each number of clients."""
    lines = [
        [str(of[0].clients), *(f"{row.images_per_s:,.0f} ({row.p50_ms:.1f}, {row.p99_ms:.1f})" for row in of)]
        for of in zip(*rows.values(), strict=True)
    ]
    return markdown(["clients", *(f"{name}: images/s (p50, p99 ms)" for name in rows)], lines)


def plot(rows: dict[str, list[ClientsRow]], path: Path) -> None:
    """Draw images a second and p99 against the number of clients."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels: Any = figure.subplots(1, 2)
    for panel, key, label in zip(panels, ("images_per_s", "p99_ms"), ("images a second", "p99, ms"), strict=True):
        for name, of in rows.items():
            panel.plot([row.clients for row in of], [getattr(row, key) for row in of], marker="o", label=name)
        panel.set(xscale="log", xlabel="clients at once", ylabel=label, ylim=(0, None))
        panel.set_xticks(CLIENTS, [str(count) for count in CLIENTS])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


if __name__ == "__main__":
    guarded(main)
