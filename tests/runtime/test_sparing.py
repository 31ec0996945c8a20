"""Sparing clean images: which answer is whose, in the pipeline, in purify-run and in purify-check."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.fixtures import Run
from helpers.processes import json_lines
from helpers.refusals import refusal
from purify_edge import InputError, Pipeline
from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.manifest import SpareEntry
from purify_edge.bundle.reader import Bundle
from purify_edge.check.check import check_bundle
from purify_edge.engines.base import BATCH
from purify_edge.pipeline.sparing import calibrate_spare, change_of, is_spared, spare

ENGINE = ("--engine", "onnxruntime", "--precision", "fp32")
SETUP: dict[str, Any] = {"engine": "onnxruntime", "precision": "fp32"}


@pytest.fixture(scope="module")
def golden(bundle_path: Path) -> dict[str, GoldenSplit]:
    return load_golden(Bundle.open(bundle_path))


@pytest.fixture
def entry(golden: dict[str, GoldenSplit]) -> SpareEntry:
    """What the clean golden images set."""
    found = calibrate_spare(golden["clean"].classifier, golden["clean"].defended, source="tests")
    assert found is not None
    return found


@pytest.fixture
def sparing(edit_manifest: Callable[..., Path], entry: SpareEntry) -> Path:
    """A bundle with that threshold."""
    fields = {"threshold": entry.threshold, "rate": entry.rate, "n": entry.n, "images": entry.images}
    return edit_manifest(lambda manifest: manifest.update(spare=fields))


def test_an_image_is_spared_up_to_the_threshold_of_the_logits_change() -> None:
    unpurified = np.array([[0, 4], [0, 4], [0, 4], [0, np.nan]], np.float32)
    purified = np.array([[0, 4], [3, 5], [4, 0], [0, 4]], np.float32)
    found = SpareEntry(threshold=1.0, rate=0.05, n=100, images="")
    assert change_of(unpurified, purified)[:3].tolist() == [0, 1, 4]
    assert is_spared(unpurified, purified, found).tolist() == [True, True, False, False]
    np.testing.assert_array_equal(spare(unpurified, purified, found), [*unpurified[:2], *purified[2:]])


def test_the_threshold_is_the_conformal_one_of_5_percent() -> None:
    changes = np.random.default_rng(0).permutation(np.arange(1, 101)).astype(np.float32)
    unpurified = np.stack([2 * changes, np.zeros(100, np.float32)], axis=1)
    found = calibrate_spare(unpurified, np.zeros_like(unpurified), source="here")
    assert found == SpareEntry(threshold=96.0, rate=0.05, n=100, images="here")
    assert calibrate_spare(unpurified[:18], np.zeros((18, 2), np.float32), source="") is None
    assert calibrate_spare(unpurified[:19], np.zeros((19, 2), np.float32), source="") is not None


def test_spared_images_keep_the_classifiers_answer_and_the_others_that_of_the_purified(
    sparing: Path, golden: dict[str, GoldenSplit], entry: SpareEntry
) -> None:
    names = ("clean", "adversarial")
    images = np.concatenate([golden[name].images[:150] for name in names])
    assert len(images) > BATCH
    with Pipeline.load(sparing, **SETUP) as plain, Pipeline.load(sparing, spare_clean=True, **SETUP) as pipeline:
        purified, prediction = plain.predict(images), pipeline.predict(images)
        labels, probabilities = pipeline.labels(images), pipeline.probabilities(images)
    assert purified.spared is None
    assert prediction.spared is not None
    assert prediction.unpurified is not None
    expected = np.concatenate([change_of(golden[name].classifier, golden[name].defended)[:150] for name in names])
    clear = np.abs(expected - entry.threshold) > 1e-3
    np.testing.assert_array_equal(prediction.spared[clear], (expected <= entry.threshold)[clear])
    spared = prediction.spared[:, None]
    np.testing.assert_array_equal(
        prediction.probabilities, np.where(spared, prediction.unpurified, purified.probabilities)
    )
    np.testing.assert_array_equal(prediction.labels, prediction.probabilities.argmax(axis=1))
    np.testing.assert_array_equal(prediction.suspicion, purified.suspicion)
    np.testing.assert_array_equal(prediction.purified, purified.purified)
    np.testing.assert_array_equal(labels, prediction.labels)
    np.testing.assert_array_equal(probabilities, prediction.probabilities)
    assert prediction.spared[:150].mean() > 0.9
    assert not prediction.spared[150:].any()


def test_no_score_is_needed_for_it(sparing: Path, golden: dict[str, GoldenSplit]) -> None:
    with Pipeline.load(sparing, suspicion=False, spare_clean=True, **SETUP) as pipeline:
        prediction = pipeline.predict(golden["clean"].images[:8])
    assert prediction.suspicion is None
    assert prediction.spared is not None
    assert prediction.spared.any()


def test_a_bundle_without_the_threshold_is_refused(edit_manifest: Callable[..., Path]) -> None:
    path = edit_manifest(lambda manifest: manifest.pop("spare", None))
    with pytest.raises(InputError, match=r"has no threshold to spare clean images by: export it again"):
        Pipeline.load(path, spare_clean=True)


def test_purify_run_says_which_images_it_spared(
    run: Run, sparing: Path, golden: dict[str, GoldenSplit], tmp_path: Path
) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "results.jsonl"
    folder.mkdir()
    for name in ("clean", "adversarial"):
        for index, image in enumerate(golden[name].images[:20]):
            Image.fromarray(image[..., 0]).save(folder / f"{name}-{index:02}.png")
    code, _, err = run("purify-run", sparing, folder, *ENGINE, "--spare-clean", "--out", out)
    assert code == 0, err
    lines = json_lines(out.read_text())
    assert len(lines) == 40
    spared = [line for line in lines if line["spared"]]
    assert 17 <= len(spared) <= 20
    assert f"{len(spared)} kept their own answer" in err
    assert all("/clean-" in line["file"] for line in spared)
    assert all(line["class"] == line["unpurified_class"] for line in spared)
    assert all(line["model"].endswith("+spare-clean") for line in lines)
    assert "results.jsonl" in refusal(*run("purify-run", sparing, folder, *ENGINE, "--out", out))  # by another rule
    code, printed, _ = run("purify-run", sparing, folder, *ENGINE, "--json")
    assert code == 0
    assert not any("spared" in line for line in json_lines(printed))


def test_a_run_without_the_threshold_is_refused(
    run: Run, edit_manifest: Callable[..., Path], images: list[Path]
) -> None:
    path = edit_manifest(lambda manifest: manifest.pop("spare", None))
    message = refusal(*run("purify-run", path, *images, "--spare-clean"))
    assert "has no threshold to spare clean images by" in message


def test_the_check_judges_the_answers_with_the_rule(
    sparing: Path, golden: dict[str, GoldenSplit], entry: SpareEntry
) -> None:
    report = check_bundle(Bundle.open(sparing), engine="onnxruntime", precisions=("fp32",), rounds=0)
    assert report.passed
    rows = {row.split: row for row in report.parity if row.role == "spared"}
    assert set(rows) == {"clean", "adversarial", "noise"}
    for name, row in rows.items():
        split = golden[name]
        expected = spare(split.classifier, split.defended, entry).argmax(axis=1)
        assert row.accuracy_reference == (expected == split.labels).mean()
        assert row.agreement is not None
        assert row.agreement > 0.99
        assert row.relative_error is None
        assert f"agreement, onnxruntime fp32 spared {name}" in {check.name for check in report.checks}
    pipeline = {row.split: row for row in report.parity if row.role == "pipeline"}
    assert rows["clean"].accuracy_engine is not None
    assert pipeline["clean"].accuracy_engine is not None
    assert rows["clean"].accuracy_engine >= pipeline["clean"].accuracy_engine
