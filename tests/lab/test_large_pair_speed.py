"""The study of 224 x 224, on small images."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lab.speed import process, rounds
from lab.studies.large_pair_speed import main, pair, write_bundle
from purify_edge import Pipeline
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle


@pytest.mark.slow
def test_its_bundle_is_one_and_runs(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", *pair(32), 32)
    bundle = Bundle.open(tmp_path / "b")
    bundle.verify()
    split = load_golden(bundle)["clean"]
    with Pipeline.load(tmp_path / "b", engine="onnxruntime") as pipeline:
        np.testing.assert_allclose(pipeline.purify(split.images), split.purified, atol=1e-4)
        assert (pipeline.labels(split.images) == split.labels).all()
    assert (bundle.model("defended", "fp32").flop or 0) > 1e7


@pytest.mark.slow
def test_it_times_pytorch_beside_the_pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for pause in ("SETTLE_S", "ROUND_S", "AWAKE_S"):
        monkeypatch.setattr(rounds, pause, 0.0)
    monkeypatch.setattr(process, "STARTS", 1)
    monkeypatch.setattr("lab.studies.large_pair_speed.calls_of", lambda network: {"PyTorch": lambda x: network})
    options = ["--size", "32", "--batch", "1", "--rounds", "3", "--budget", "0", "--json"]
    result = CliRunner().invoke(main, options, catch_exceptions=False)
    found = json.loads(result.stdout)
    assert {"labels", "PyTorch", "by hand: onnxruntime, composed"} <= {row["contestant"] for row in found["rows"]}
    assert found["process"]["resident_mib"] > 30
