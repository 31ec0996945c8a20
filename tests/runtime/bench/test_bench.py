"""purify-bench: engines, precisions and batches side by side, and the soak."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from helpers.refusals import refused
from purify_edge.bench import bench
from purify_edge.bench.cli import main
from purify_edge.engines.onnxruntime import OnnxRuntimeEngine

pytest.importorskip("onnxruntime")


def invoke(bundle: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [str(bundle), *arguments])


@pytest.fixture(scope="module")
def found(bundle_path: Path) -> Any:
    done = invoke(bundle_path, "--rounds", "2", "--batch", "3", "--batch", "1", "--soak", "30", "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_every_engine_and_precision_is_timed_at_every_batch(found: Any) -> None:
    rows = {(row["engine"], row["precision"], row["stage"], row["batch"]) for row in found["latency"]}
    expected = {
        ("onnxruntime", precision, stage, batch)
        for precision in ("fp32", "fp16")
        for stage in ("pipeline", "defended")
        for batch in (1, 3)
    }
    assert expected <= rows
    named = {row["engine"] for row in found["latency"]} | {left["engine"] for left in found["not_run"]}
    assert {"tensorrt", "rtx", "onnxruntime-cuda", "onnxruntime", "openvino"} <= named


def test_it_says_what_purify_run_takes(found: Any) -> None:
    assert found["plan"]["ways"]
    assert found["environment"]["versions"]["onnxruntime"]


def test_the_soak_asks_again_and_gets_the_same_answers(found: Any) -> None:
    assert found["soak"]["calls"] == 30
    assert found["soak"]["wrong"] == 0


def test_an_answer_that_changes_ends_with_1(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(OnnxRuntimeEngine):
        """The real engine, but each answer is another one than before."""

        calls = 0

        def run(self, x: np.ndarray) -> np.ndarray:
            type(self).calls += 1
            output = super().run(x)
            return np.roll(output, self.calls, axis=1) if self.output_spec.name == "logits" else output

    monkeypatch.setattr("purify_edge.engines.onnxruntime.OnnxRuntimeEngine", Forgetful)
    monkeypatch.setattr(bench, "measure", lambda *_, **__: [])
    options = ("--engine", "onnxruntime", "--precision", "fp32", "--soak", "20")
    done = invoke(bundle_path, *options)
    assert done.exit_code == 1
    assert "images got another answer" in done.output


def test_the_tables_show_the_fastest_first(bundle_path: Path) -> None:
    done = invoke(bundle_path, "--engine", "onnxruntime", "--rounds", "2", "--batch", "2")
    assert done.exit_code == 0, done.output
    assert "Batch 2, 2 rounds" in done.output
    lines = [line.split() for line in done.output.splitlines() if line.startswith("onnxruntime")]
    times = [float(line[3]) for line in lines]
    assert len(times) == 4
    assert times == sorted(times)
    assert lines[0][-1] == "1.00"


@pytest.mark.parametrize("arguments", [("--engine", "abacus"), ("--precision", "fp7"), ("--batch", "0")])
def test_bad_input_is_told_in_a_line(arguments: tuple[str, str], bundle_path: Path) -> None:
    refused(invoke(bundle_path, *arguments))
