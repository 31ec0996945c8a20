"""purify-run --max-latency-ms: what is run so that a camera's frames are in time, and what is not."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Agreement
from purify_edge.engines import onnxruntime
from purify_edge.errors import InputError
from purify_edge.pipeline.pipeline import Pipeline
from purify_edge.run import budget
from purify_edge.run.budget import OverBudgetError, load_within
from purify_edge.run.cli import main

HOUR_MS = 3_600_000.0
COUNT = 12


@pytest.fixture
def frames(bundle_path: Path) -> bytes:
    """Golden images as raw frames, RGB, 28 x 28."""
    return load_golden(Bundle.open(bundle_path))["clean"].images[:COUNT].repeat(3, axis=3).tobytes()


def take(times_ms: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pipeline take a time by its precision."""

    def p99_ms(pipeline: Pipeline, images: np.ndarray) -> float:
        pipeline.predict(images[:1])
        return times_ms[pipeline.plan.precision]

    monkeypatch.setattr(budget, "_p99_ms", p99_ms)


def opened(bundle_path: Path, limit_ms: float, precision: str = "auto") -> str:
    with load_within(
        Bundle.open(bundle_path), limit_ms, engine="onnxruntime", precision=precision, policy=None
    ) as found:
        return found.plan.precision


def test_what_would_run_anyway_is_measured_and_taken(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnxruntime, "lossy_precisions", frozenset)  # of which one moment may take one, and another not
    caplog.set_level("INFO", "purify_edge")
    with Pipeline.load(bundle_path, engine="onnxruntime") as plain:
        assert opened(bundle_path, HOUR_MS) == plain.plan.precision
    assert "ms at p99, of the 3.6e+06 ms allowed" in caplog.text
    assert "rather than" not in caplog.text


def test_a_lossy_precision_is_taken_where_only_that_is_in_time(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    take({"fp32": 9.0, "fp16": 7.0}, monkeypatch)
    monkeypatch.setattr(budget, "agreement_of", lambda *given: Agreement(n=512, same=512, error=0.1))
    assert opened(bundle_path, 10.0) == "fp32"
    assert opened(bundle_path, 8.0) == "fp16"
    assert "fp16 rather than fp32, for 8 ms: 7 ms at p99, not 9" in caplog.text
    with pytest.raises(OverBudgetError, match="nothing here stays below 8 ms at p99: fp32 9 ms; allow more"):
        opened(bundle_path, 8.0, precision="fp32")  # which was asked for


def test_a_lossy_precision_that_answers_otherwise_is_not_taken(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take({"fp32": 9.0, "fp16": 7.0}, monkeypatch)
    monkeypatch.setattr(budget, "agreement_of", lambda *given: Agreement(n=512, same=500, error=0.1))
    with pytest.raises(OverBudgetError, match="fp32 9 ms"):
        opened(bundle_path, 8.0)


def test_a_limit_that_nothing_keeps_ends_with_1_and_says_what_was_measured(
    bundle_path: Path, tmp_path: Path, frames: bytes
) -> None:
    out = tmp_path / "results.jsonl"
    options = ["--max-latency-ms", "0.0001", "--engine", "onnxruntime", "--out", str(out)]
    found = CliRunner().invoke(main, [str(bundle_path), "--raw", "28x28", "-", *options], input=frames)
    assert found.exit_code == 1
    assert "nothing here stays below 0.0001 ms at p99: fp32 " in found.stderr
    assert not out.exists()


def test_late_frames_are_counted(
    bundle_path: Path, tmp_path: Path, frames: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from purify_edge.images.cameras.raw import RawFrames
    from purify_edge.run import output, runner
    from purify_edge.run.job import Job

    path, metrics = tmp_path / "frames", tmp_path / "metrics.prom"
    path.write_bytes(frames)
    monkeypatch.setattr(budget, "_p99_ms", lambda *given: 0.0)
    for limit_ms, late in ((HOUR_MS, 0), (1e-9, COUNT)):
        with path.open("rb") as stream:
            monkeypatch.setattr(runner, "RawFrames", lambda size, pictures, s=stream: RawFrames(size, stream=s))
            job = Job(
                bundle=bundle_path, inputs=("-",), engine="onnxruntime", precision="fp32", verify=None, policy=None,
                raw=(28, 28), max_latency_ms=limit_ms, metrics=str(metrics),
            )  # fmt: skip
            assert output.run(job, lines="json") == 0
        assert f"purify_missed_budgets_total {late:.1f}" in metrics.read_text()


def test_it_is_for_cameras(bundle_path: Path, tmp_path: Path) -> None:
    found = CliRunner().invoke(main, [str(bundle_path), str(tmp_path), "--max-latency-ms", "8"])
    assert found.exit_code == 2
    assert "is for a camera, a stream or raw frames" in found.stderr
    assert CliRunner().invoke(main, [str(bundle_path), "-", "--max-latency-ms", "0"]).exit_code == 2
    with pytest.raises(InputError, match="no engine 'quantum'"):
        load_within(Bundle.open(bundle_path), 8.0, engine="quantum", precision="auto", policy=None)
