"""A bulk run on two local nodes under kills of a worker, a node and the command; and its speed beside purify-run."""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet
from ray.cluster_utils import Cluster

from purify_edge.shell.command import Command


def _command(name: str, *arguments: object) -> list[str]:
    module = {"purify-ray": "bulk", "purify-run": "run"}[name]
    program = f"from purify_edge.{module}.cli import main; main()"
    return [sys.executable, "-c", program, *map(str, arguments)]


def _seconds(command: list[str]) -> tuple[float, str]:
    begin_s = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - begin_s, done.stdout


def _labels(out: Path) -> list[tuple[str, int]]:
    rows = pyarrow.parquet.read_table(out, columns=["path", "label"]).to_pylist() if any(out.glob("part-*")) else []
    return [(row["path"], row["label"]) for row in rows]


def _workers() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_text().startswith("ray::MapWorker"):
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


def killed(bundle: Path, source: Path, out: Path, cluster: Any) -> dict[str, int]:
    """Kill a worker and the command, start the same command again and take a node away; return what came of it."""
    command = _command("purify-ray", bundle, source, out, "--address", cluster.address, "--workers", 2)
    node = cluster.add_node(num_cpus=1)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not _labels(out):
        time.sleep(0.1)
    os.kill(random.choice(_workers()), signal.SIGKILL)
    time.sleep(3)
    process.kill()
    process.wait()
    before = len(_labels(out))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(_labels(out)) == before and process.poll() is None:
        time.sleep(0.1)
    cluster.remove_node(node, allow_graceful=False)
    code = process.wait()
    found = _labels(out)
    return {"exit_code": code, "done_before": before, "rows": len(found), "paths": len(dict(found))}


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("scratch", type=click.Path(path_type=Path))
@click.option("--rounds", default=3, show_default=True, help="Of both contestants, interleaved.")
def main(bundle: Path, source: Path, scratch: Path, rounds: int) -> None:
    """Print, as JSON, what is left of a run of SOURCE under kills, and seconds of purify-ray and of purify-run."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found: dict[str, Any] = {"killed": killed(bundle, source, scratch / "killed", cluster)}
    cluster.add_node(num_cpus=1)
    ray_s, run_s = [], []
    for number in range(rounds):
        out = scratch / str(number)
        options = ("--address", cluster.address, "--workers", 2, "--json")
        ray_s.append(_seconds(_command("purify-ray", bundle, source, out, *options))[0])
        seconds, lines = _seconds(_command("purify-run", bundle, source, "--json"))
        run_s.append(seconds)
    expected = {row["file"]: row.get("label") for row in map(json.loads, lines.splitlines())}
    found["images"] = len(expected)
    found["other_labels"] = sum(expected[path] != label for path, label in _labels(scratch / "killed"))
    found |= {"purify_ray_s": ray_s, "purify_run_s": run_s}
    found["ratio"] = statistics.median(run / ray for ray, run in zip(ray_s, run_s, strict=True))
    print(json.dumps(found, indent=2))
    cluster.shutdown()


if __name__ == "__main__":
    main()
