import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.studies import spared_answers
from lab.studies.spared_answers import SparingRule, both_wrong, judged, less_wrong, worst
from purify_edge.bundle.golden import GoldenSplit
from purify_edge.errors import InputError
from purify_edge.pipeline.suspicion import suspicion_of
from purify_export.images.golden import reference
from purify_export.networks import Networks
from purify_toolkit.attacks.gradient import margin
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.folder import RunFolder


def seen_as(alone: list[list[float]], purified: list[list[float]], labels: list[int]) -> GoldenSplit:
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    logits = (np.array(each, np.float32) for each in (alone, purified))
    return GoldenSplit(images, np.array(labels), images.astype(np.float32), *logits)


def test_an_answer_is_purified_only_where_the_logits_change_by_more_than_the_threshold() -> None:
    """The changes are 0.5, 2 and 2.5: the first two keep the answer of the image as it came, the last does not."""
    seen = seen_as([[1, 0], [3, 0], [4, 0]], [[0, 0.001], [0, 1], [0, 1]], [0, 0, 1])
    rule = SparingRule("logit-change", 2.0)
    columns = judged(seen, rule, SparingRule("confident-change", 100.0))
    assert columns["share_purified"].tolist() == [False, False, True]
    assert columns["alone"].tolist() == [True, True, False]
    assert columns["purified"].tolist() == [False, False, True]
    assert columns["with_rule"].tolist() == [True, True, True]
    assert columns["by_suspicion"].tolist() == columns["alone"].tolist()


def test_of_the_images_that_set_the_threshold_one_in_20_is_purified(shipped: RunFolder, networks: Networks) -> None:
    samples = shipped.load_samples()
    calm = reference(networks, samples.images[:199], samples.labels[:199])
    for score in ("logit-change", "confident-change"):
        rule = SparingRule.of(calm, score)
        assert rule.purifies(calm).sum() == 9
        assert rule.purifies(calm)[suspicion_of(calm.classifier, calm.defended, score).argmax()]
    with pytest.raises(InputError, match="19 at least"):
        SparingRule.of(reference(networks, samples.images[:9], samples.labels[:9]))


def test_attacks_on_the_rule_want_both_answers_wrong() -> None:
    first, second = torch.tensor([[0.0, 5.0], [0.0, 5.0]]), torch.tensor([[0.0, 3.0], [4.0, 0.0]])
    labels, both = torch.zeros(2, dtype=torch.long), torch.cat([first, second], dim=1)
    assert less_wrong(both, labels).tolist() == [3, -4]
    assert margin(first, labels).tolist() == [5, 5]
    assert both_wrong(both, labels).tolist() == pytest.approx([8.0554, 5.0249], abs=1e-3)


def test_the_worst_case_is_taken_image_by_image() -> None:
    sets = [
        dict.fromkeys(spared_answers.RIGHT, np.array(right)) for right in ([True, True, False], [False, True, True])
    ]
    assert worst("grey-box", sets)["with_rule"]["correct"] == 1


@pytest.mark.slow
def test_the_study_judges_the_runs_own_pair(trained: RunFolder, accepted: Path, tmp_path: Path) -> None:
    arguments = [str(trained.path), "--data", str(accepted), "--limit", "60", "--calibrate", "99"]
    spared_answers.main([*arguments, "--out", str(tmp_path / "new" / "out")])
    results = json.loads((tmp_path / "new" / "out" / "spared_answers.json").read_text())
    rows, thresholds = results["rows"], results["thresholds"]
    clean, attacked = rows[0], rows[3]
    data, networks = load_data_of(trained, accepted), Networks.load(trained)
    seen = reference(networks, data.test.images[:60], data.test.labels[:60])
    calm = reference(networks, data.validation.images[:99], data.validation.labels[:99])
    assert thresholds["logit-change"] == np.sort((calm.classifier - calm.defended).std(axis=1))[94]
    purified = (seen.classifier - seen.defended).std(axis=1) > thresholds["logit-change"]
    right = np.where(purified, seen.defended.argmax(1), seen.classifier.argmax(1)) == seen.labels
    assert [clean[name]["correct"] for name in ("share_purified", "with_rule")] == [purified.sum(), right.sum()]
    assert attacked["images"] == "PGD-4, Linf 0.1, step 0.05, 1 random start"
    assert attacked["alone"]["correct"] < clean["alone"]["correct"]
    for threat in ("grey-box", "white-box"):
        *each, last = (row["with_rule"]["correct"] for row in rows if row["threat"] == threat)
        assert last <= min(each)
    assert {row["alone"]["n"] for row in rows} == {60}
    assert len((tmp_path / "new" / "out" / "spared_answers.md").read_text().splitlines()) == 2 + len(rows)
