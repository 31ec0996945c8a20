"""The table of runtimes that are not ours, with the one of them that the tests install."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.bundles import replace
from helpers.served_graphs import served_of
from lab.runtimes.__main__ import SPLITS, asked, cells, main, rows
from lab.runtimes.speed import main as time_both
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.errors import BundleError
from purify_edge.images.arrays import as_batch
from purify_edge.pipeline.prediction import softmax
from purify_edge.pipeline.sparing import spare


def test_opencv_agrees_with_pytorch(few_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    main([str(few_images), "--runtime", "OpenCV"])
    first = capsys.readouterr().out.splitlines()[2]
    runtime, graph, *agreement, difference = [cell.strip() for cell in first.strip("|").split("|")]
    assert re.fullmatch(r"OpenCV \d+\.\d.*", runtime)
    assert graph == "`defended.fp32`"
    assert agreement == ["100.0%"] * 3
    assert 0 < float(difference) < 1e-3


def test_opencv_runs_the_served_graph(few_images: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    bundle = Bundle.open(few_images)
    (tmp_path / "served.onnx").write_bytes(served_of(bundle).SerializeToString())
    images = as_batch(load_golden(bundle)["clean"].images, bundle.manifest.input)
    answers = asked("OpenCV", tmp_path / "served.onnx", "probabilities", images)
    assert not isinstance(answers, str), answers
    assert answers.shape == (len(images), 10)
    assert answers.sum(axis=1) == pytest.approx(1, abs=1e-4)


def test_a_graph_that_spares_clean_images_is_compared_with_pytorchs_answers_under_that_rule(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    golden, rule = load_golden(bundle), bundle.manifest.spare
    assert rule is not None
    right = np.concatenate([spare(golden[name].classifier, golden[name].defended, rule) for name in SPLITS])
    assert list(cells(softmax(right), golden, "served", rule)) == ["100.0%", "100.0%", "100.0%", "0"]
    agreement, *_ = cells(softmax(right), golden, "served")
    assert agreement != "100.0%"


def test_opencv_is_timed_beside_onnxruntime(few_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    time_both([str(few_images), "--batch", "2", "--rounds", "3"])
    header, _, *table = capsys.readouterr().out.splitlines()
    assert "ONNX Runtime" in header
    assert [row.split("|")[1].strip() for row in table] == ["`defended.fp32`", "`defended.fp16`"]
    for row in table:
        batch, rounds, ours_ms, theirs_ms = (float(cell) for cell in row.split("|")[2:6])
        assert (batch, rounds) == (2, 3)
        assert ours_ms > 0
        assert theirs_ms > 0
    assert float(table[0].rpartition("within ")[2].strip(" |")) < 1e-3


def test_what_a_runtime_says_of_a_graph_that_it_refuses_is_told(few_images: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    copy = Path(shutil.copytree(few_images, tmp_path / "bundle"))
    replace(copy, "models/defended.fp32.onnx", b"no graph")
    table = list(rows(Bundle.open(copy), ["OpenCV"]))
    assert "error" in table[2]
    assert table[2].endswith("|  |  |  |")


def test_a_damaged_graph_reaches_no_runtime(few_images: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(few_images, tmp_path / "bundle"))
    (copy / "models/defended.fp32.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match="is damaged"):
        list(rows(Bundle.open(copy), ["OpenCV"]))
