import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from purify_edge import InputError, Pipeline, Prediction
from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.manifest import SuspicionEntry
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Report
from purify_edge.check.check import check_bundle
from purify_edge.pipeline.pipeline import BATCH, softmax
from purify_edge.pipeline.suspicion import BINS, auroc, calibrate, is_suspicious, report_of, suspicion_of

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def golden(bundle_path: Path) -> dict[str, GoldenSplit]:
    return load_golden(Bundle.open(bundle_path))


@pytest.fixture(scope="module")
def report(bundle_path: Path) -> Report:
    return check_bundle(Bundle.open(bundle_path), engine="onnxruntime", precisions=("all",), rounds=0)


@pytest.fixture
def old_bundle(edit_manifest: Any) -> Path:
    """One from before there was a score."""
    path: Path = edit_manifest(lambda manifest: manifest.pop("suspicion"))
    return path


def test_predictions_are_scored_by_the_change_of_the_logits(bundle_path: Path, golden: dict[str, GoldenSplit]) -> None:
    images = np.concatenate([golden["clean"].images[:40], golden["adversarial"].images[:40]])
    assert len(images) > BATCH
    plain, defended = (
        np.concatenate([getattr(golden[name], field)[:40] for name in ("clean", "adversarial")])
        for field in ("classifier", "defended")
    )
    with Pipeline.load(bundle_path, engine="onnxruntime", precision="fp32") as pipeline:
        prediction = pipeline.predict(images)
        assert pipeline.suspicion is not None
        threshold = pipeline.suspicion.threshold
        alone = pipeline.classify(images)
    assert prediction.suspicion is not None
    assert prediction.suspicion.dtype == np.float32
    second, first = np.sort(plain, axis=1)[:, -2:].T
    expected = np.std(plain - defended, axis=1) * (first - second)
    np.testing.assert_allclose(prediction.suspicion, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(prediction.suspicious, prediction.suspicion > threshold)
    np.testing.assert_allclose(prediction.unpurified, softmax(plain), atol=1e-4)
    np.testing.assert_array_equal(prediction.unpurified, alone)


def test_bundles_from_before_the_margin_counted_are_scored_as_they_were(
    edit_manifest: Any, golden: dict[str, GoldenSplit]
) -> None:
    entry = {"threshold": 1.28, "false_positive_rate": 0.01, "n": 744, "images": "", "score": "logit-change"}
    path = edit_manifest(lambda manifest: manifest.update(suspicion=entry))
    noise = golden["noise"]
    change = np.std(noise.classifier - noise.defended, axis=1)
    with Pipeline.load(path, engine="onnxruntime", precision="fp32") as pipeline:
        prediction = pipeline.predict(noise.images)
    np.testing.assert_allclose(prediction.suspicion, change, atol=1e-4)
    found = check_bundle(Bundle.open(path), engine="onnxruntime", precisions=("fp32",), rounds=0)
    assert found.passed
    assert found.suspicion is not None
    assert found.suspicion.benign == ()
    assert found.suspicion.splits[2].flagged == pytest.approx((change > 1.28).mean(), abs=0.01)


def test_attacked_images_are_told_from_clean_ones(report: Report) -> None:
    found = report.suspicion
    assert found is not None
    assert (found.n_calibration, found.score) == (744, "confident-change")
    splits = {split.split: split for split in found.splits}
    assert splits["clean"].auroc is None
    assert splits["clean"].flagged <= 0.03
    assert splits["adversarial"].auroc is not None
    assert splits["adversarial"].auroc >= 0.99
    assert splits["adversarial"].flagged >= 0.95
    assert splits["noise"].flagged <= 0.1
    assert len(found.benign) == 12
    assert all(row.n == 252 and row.flagged <= 0.1 for row in found.benign)
    assert all(sum(split.counts) == split.n == 256 for split in found.splits)
    checks = [check.name for check in report.checks if check.name.startswith("change of what is suspicious")]
    assert checks == [
        f"change of what is suspicious, onnxruntime {precision} pipeline {split}"
        for precision in ("fp32", "fp16")
        for split in ("clean", "adversarial", "noise")
    ]


def test_without_a_threshold_or_when_not_wanted_there_is_no_score(
    old_bundle: Path, bundle_path: Path, golden: dict[str, GoldenSplit]
) -> None:
    images, expected = golden["clean"].images[:3], golden["clean"].defended[:3].argmax(axis=1)
    for path, options in ((old_bundle, {}), (bundle_path, {"suspicion": False})):
        with Pipeline.load(path, **options) as pipeline:  # type: ignore[arg-type]
            prediction = pipeline.predict(images)
        assert (prediction.unpurified, prediction.suspicion, prediction.suspicious) == (None, None, None)
        assert (prediction.labels == expected).all()
    old = check_bundle(Bundle.open(old_bundle), precisions=("fp32",), rounds=0)
    assert old.suspicion is None
    assert old.passed


def test_an_alert_is_called_once_for_a_suspicious_batch(bundle_path: Path, golden: dict[str, GoldenSplit]) -> None:
    alerts: list[Prediction] = []
    with Pipeline.load(bundle_path, engine="onnxruntime", precision="fp32", on_alert=alerts.append) as pipeline:
        clean = pipeline.predict(golden["clean"].images[:40])
        assert clean.suspicious is not None
        quiet = ~clean.suspicious
        alerts.clear()
        pipeline.predict(golden["clean"].images[:40][quiet])
        assert alerts == []
        mixed = np.concatenate([golden["clean"].images[:40][quiet][:2], golden["adversarial"].images[:2]])
        prediction = pipeline.predict(mixed)
    (alert,) = alerts
    assert alert is prediction
    assert prediction.suspicious is not None
    assert prediction.suspicious.tolist() == [False, False, True, True]


def test_alerts_that_could_never_come_are_refused(old_bundle: Path, bundle_path: Path) -> None:
    with pytest.raises(InputError, match="has no threshold for it: export it again"):
        Pipeline.load(old_bundle, on_alert=print)
    with pytest.raises(InputError, match="leave suspicion=False out"):
        Pipeline.load(bundle_path, on_alert=print, suspicion=False)


def test_an_engine_that_makes_clean_images_suspicious_breaks_a_limit(
    bundle_path: Path, golden: dict[str, GoldenSplit]
) -> None:
    from purify_edge.check.limits import Limits, suspicion_checks

    entry = Bundle.open(bundle_path).manifest.suspicion
    assert entry is not None
    scores = {name: suspicion_of(split.classifier, split.defended) for name, split in golden.items()}
    calm = scores["clean"] <= entry.threshold

    def failed(count: int, limits: Limits) -> list[str]:
        changed = scores["clean"].copy()
        changed[np.flatnonzero(calm)[:count]] = 2 * entry.threshold
        found = suspicion_checks(entry, golden, scores | {"clean": changed}, limits, where="engine fp32")
        return [check.name for check in found if not check.passed]

    assert failed(5, Limits()) == []  # 5 of 256 are 1.95%
    assert failed(6, Limits()) == ["change of what is suspicious, engine fp32 pipeline clean"]
    assert failed(6, Limits(max_flagged_change=0.03)) == []


@pytest.mark.parametrize(("flagged", "passed"), [(44, True), (43, False)])
def test_a_change_of_what_is_suspicious_that_is_the_limit_keeps_it(flagged: int, passed: bool) -> None:
    """Though 45/50 - 44/50 is a little more than 0.02."""
    from purify_edge.check.limits import Limits, suspicion_checks

    entry = SuspicionEntry(threshold=1.0, false_positive_rate=0.01, n=99, images="")
    answers = np.tile(np.float32([1, 0]), (50, 1))
    purified = np.where(np.arange(50)[:, None] < 45, np.float32([0, 4]), answers)
    split = GoldenSplit(answers.astype(np.uint8), answers[:, 0].astype(np.int64), purified, answers, purified)
    scores = np.where(np.arange(50) < flagged, 2, 0).astype(np.float32)
    (found,) = suspicion_checks(entry, {"clean": split}, {"clean": scores}, Limits(), where="engine fp32")
    assert found.passed == passed


LOGITS = arrays(np.float32, (4, 5), elements=st.floats(-50, 50, width=32))


@given(LOGITS, LOGITS, st.floats(-50, 50))
def test_what_no_probability_shows_changes_no_score(before: Any, after: Any, shift: float) -> None:
    score = suspicion_of(before, after)
    np.testing.assert_allclose(suspicion_of(before + np.float32(shift), after), score, rtol=1e-3, atol=0.02)
    np.testing.assert_array_equal(suspicion_of(before, before), 0)
    np.testing.assert_array_equal(suspicion_of(np.zeros_like(before), after), 0)  # nothing was answered before


def test_what_is_no_number_is_suspicious() -> None:
    scores = np.array([0.5, np.nan, np.inf, 2.0, 1.0], np.float32)
    assert is_suspicious(scores, 1.0).tolist() == [False, True, True, True, False]


def test_the_threshold_is_an_order_statistic() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1, 200, dtype=np.float32))
    entry = calibrate(scores, source="here")  # of 199 scores the one in place 200 * 0.99 = 198
    expected = SuspicionEntry(threshold=198.0, false_positive_rate=0.01, n=199, images="here", score="confident-change")
    assert entry == expected
    least = calibrate(scores[:99], source="here")
    assert least is not None
    assert least.threshold == scores[:99].max()
    assert calibrate(scores[:98], source="here") is None
    assert calibrate(np.append(scores, np.float32(np.nan)), source="here") == entry  # NaN has no answer
    assert calibrate(np.append(scores[:98], np.float32(np.nan)), source="here") is None


def test_benign_changes_raise_the_threshold_and_never_lower_it() -> None:
    scores, few = np.arange(1, 200, dtype=np.float32), np.arange(18, dtype=np.float32) + 1000
    dim = np.arange(1, 20, dtype=np.float32) * 20  # of 19 scores the one in place 20 * 0.95 = 19
    entry = calibrate(scores, source="", benign={"dim": dim, "calm": scores / 10, "too few": few})
    assert entry is not None
    assert (entry.threshold, entry.benign_rate, entry.n) == (380.0, 0.05, 199)
    calm = calibrate(scores, source="", benign={"calm": scores / 10})
    assert calm is not None
    assert calm.threshold == 198.0


@given(arrays(np.float32, 6, elements=st.integers(0, 3)), arrays(np.float32, 4, elements=st.integers(0, 3)))
def test_the_area_is_the_chance_of_a_higher_score(clean: Any, other: Any) -> None:
    wins = (other[:, None] > clean).mean() + (other[:, None] == clean).mean() / 2
    assert auroc(clean, other) == pytest.approx(wins)


ENTRY = SuspicionEntry(threshold=1.0, false_positive_rate=0.01, n=100, images="")
ODD = {
    "zeros, of a purifier that does nothing": [0.0, 0.0],
    "no numbers": [np.nan, np.nan],
    "infinite": [np.inf, 0.5],
    "one and the same": [2.0, 2.0],
    "far apart": [1e-30, 1e30],
}


@pytest.mark.parametrize("case", ODD)
def test_every_score_is_counted_in_the_histogram(case: str) -> None:
    scores = np.array(ODD[case], np.float32)
    found = report_of(ENTRY, {"clean": scores, "adversarial": scores})
    assert len(found.edges) == BINS + 1
    assert (np.diff(found.edges) > 0).all()
    assert np.isfinite(found.edges).all()
    assert found.edges[0] <= max(1.0, scores.min()) < found.edges[-1]
    for split in found.splits:
        assert sum(split.counts) == 2
        assert split.flagged == is_suspicious(scores, 1.0).mean()
    assert found.splits[1].auroc == 0.5


def test_a_golden_set_without_clean_images_has_no_area() -> None:
    found = report_of(ENTRY, {"adversarial": np.ones(3, np.float32)})
    assert [split.auroc for split in found.splits] == [None]


def test_a_prediction_can_be_made_without_scores() -> None:
    """Whoever made predictions before there were scores still can."""
    fields = [field.name for field in dataclasses.fields(Prediction) if field.default is dataclasses.MISSING]
    assert fields == ["labels", "probabilities", "purified"]
