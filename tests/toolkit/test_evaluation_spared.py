"""purify-eval --spare-clean: the rule that spares clean images, judged beside the purifier that answers for all."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from helpers.silent import Silent
from helpers.tiny import STRENGTH, random_images, tiny_run
from purify_edge.document.terminal import print_document
from purify_edge.errors import InputError
from purify_edge.pipeline.sparing import calibrate_spare, is_spared, spare
from purify_toolkit.data.splits import Split
from purify_toolkit.evaluate.assess import SPARE_IMAGES, assess
from purify_toolkit.evaluate.gates import Results
from purify_toolkit.evaluate.measure import Measurement, MeasurementPlan
from purify_toolkit.evaluate.report import EvaluationReport, summarise
from purify_toolkit.evaluate.selection import EvaluationRequest
from purify_toolkit.evaluate.store import Store
from purify_toolkit.evaluate.tables import document_of
from purify_toolkit.evaluate.threats import BARELY, attack_of
from purify_toolkit.networks.answers import answers_of
from purify_toolkit.runs.folder import RunFolder

CPU = torch.device("cpu")
QUESTION = EvaluationRequest(attacks="grey-box:fgsm,white-box:fgsm", spare_clean=True)
ROWS = ["clean:none", "grey-box:fgsm", BARELY, "white-box:fgsm"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return tiny_run(tmp_path_factory.mktemp("spared") / "run", classes=3, channels=1)


@pytest.fixture(scope="module")
def test(run: RunFolder) -> Split:
    """Images of noise, and what the classifier makes of them for labels."""
    split = random_images(classes=3, channels=1, count=16)
    return Split(split.images, torch.from_numpy(answers_of(run.load_classifier(), split, CPU)))


def evaluate(run: RunFolder, test: Split, out: Path, question: EvaluationRequest = QUESTION) -> EvaluationReport:
    validation = random_images(classes=3, channels=1, count=SPARE_IMAGES + 20)
    return assess(run, test, question, out=out, device=CPU, progress=Silent(), validation=validation)


def logits(run: RunFolder, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    classifier, student = run.load_classifier(), run.load_student()
    with torch.no_grad():
        return classifier(images).numpy(), classifier(student(images)).numpy()


def test_every_row_is_judged_by_the_rule_that_validation_images_set(
    run: RunFolder, test: Split, tmp_path: Path
) -> None:
    report = evaluate(run, test, tmp_path / "out")
    validation = random_images(classes=3, channels=1, count=SPARE_IMAGES + 20).images[:SPARE_IMAGES] / 255
    rule = calibrate_spare(*logits(run, validation), source="validation images")
    assert rule is not None
    assert report.about["spare"] == {"threshold": pytest.approx(rule.threshold), "rate": 0.05, "n": 500} | {
        "images": "validation images"
    }
    assert list(report.results.rows) == ROWS
    store, kept = Store(tmp_path / "out", test, report.about["weights_sha256"], 0, spare=rule), []
    for measurement in report.results.rows.values():
        _, images, labels = store.load_examples(measurement.plan)
        alone, purified = logits(run, images)
        assert measurement.spared is not None
        assert measurement.spared.tolist() == (spare(alone, purified, rule).argmax(1) == labels.numpy()).tolist()
        assert measurement.defended.tolist() == (purified.argmax(1) == labels.numpy()).tolist()
        kept.append(is_spared(alone, purified, rule).mean())
    assert max(kept) > 0
    content = report.as_dict()["spared"]
    assert [row["name"] for row in content["rows"]] == ROWS
    assert [row["correct"] for row in content["rows"]] == [
        int(measurement.spared.sum()) for measurement in report.results.rows.values() if measurement.spared is not None
    ]
    assert [of["threat"] for of in content["headlines"]] == ["clean", "grey-box", "barely", "white-box"]


def test_the_table_has_a_column_of_it_and_what_it_costs(run: RunFolder, test: Split, tmp_path: Path) -> None:
    content = evaluate(run, test, tmp_path / "out").as_dict()
    shown = StringIO()
    print_document(document_of(content), Console(file=shown, width=250))
    text = " ".join(shown.getvalue().split())
    assert text.count("classifier alone purifier and classifier with --spare-clean") == 2
    tax = content["spared"]["tax"]
    assert f"With --spare-clean it costs {tax['points']:.2f} (p = {tax['p']:.2g})." in text
    for row in content["spared"]["rows"]:
        line = next(line for line in shown.getvalue().splitlines() if row["attack"] in line and row["threat"] in line)
        assert line.split()[-4].startswith(f"{100 * row['accuracy']:.2f}%")


def test_without_it_nothing_changes(run: RunFolder, test: Split, tmp_path: Path) -> None:
    plain = evaluate(run, test, tmp_path / "plain", replace(QUESTION, spare_clean=False))
    assert "spared" not in plain.as_dict()
    assert "spare" not in plain.about
    judged = evaluate(run, test, tmp_path / "judged")
    for name, measurement in plain.results.rows.items():
        assert measurement.spared is None
        assert judged.results.rows[name].defended.tolist() == measurement.defended.tolist()


def test_it_is_kept_and_measured_anew_for_another_threshold(run: RunFolder, test: Split, tmp_path: Path) -> None:
    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "rows").glob("*.json")}

    question = replace(QUESTION, attacks="white-box:pgd,grey-box:pgd")
    evaluate(run, test, tmp_path / "out", replace(question, spare_clean=False))
    plain = times()
    first = evaluate(run, test, tmp_path / "out", question)
    judged = times()
    again = {name for name in plain if judged[name] != plain[name]}
    assert {name.rpartition("-")[0] for name in again} == {"clean-none", "grey-box-pgd", "white-box-pgd"}  # no curves
    second = evaluate(run, test, tmp_path / "out", question)
    assert all(second.as_dict()[key] == first.as_dict()[key] for key in ("rows", "curves", "spared"))
    without = evaluate(run, test, tmp_path / "out", replace(question, spare_clean=False))
    assert times() == judged
    assert "spared" not in without.as_dict()
    assert not without.harm
    other = random_images(classes=3, channels=1, count=40)
    assess(run, test, question, out=tmp_path / "out", device=CPU, progress=Silent(), validation=other)
    assert {name for name, time in times().items() if time != judged[name]} == again | set(judged) - set(plain)


@pytest.mark.parametrize(("right", "harm"), [(75, False), (74, True)])
def test_a_rule_that_lets_weak_attacks_through_does_harm(right: int, harm: bool) -> None:
    some, every = np.arange(100) < right, np.ones(100, bool)
    rows = {}
    for name, spared in (("clean:none", every), (BARELY, some)):
        plan = MeasurementPlan(name, name, attack_of(name, STRENGTH), 100)
        rows[name] = Measurement(plan, every, every, None, (0.0, 1.0), (), 0.0, spared)
    report = summarise(Results(rows, STRENGTH), [], {})
    sentence = f"--spare-clean does harm: under attacks that stop as soon as the classifier errs {right}.0% stay right"
    assert report.harm.startswith(sentence) == harm == bool(report.harm)
    shown = StringIO()
    print_document(document_of(report.as_dict()), Console(file=shown, width=250))
    assert (sentence in shown.getvalue()) == harm


@pytest.mark.parametrize("count", [None, 0, 18])
def test_too_few_validation_images_are_told_before_any_attack(
    run: RunFolder, test: Split, tmp_path: Path, count: int | None
) -> None:
    few = None if count is None else random_images(classes=3, channels=1, count=40)[:count]
    with pytest.raises(InputError, match=f"takes 19 validation images .* the run has {count or 0}; leave"):
        assess(run, test, QUESTION, out=tmp_path / "out", device=CPU, progress=Silent(), validation=few)
    assert not (tmp_path / "out").exists()
