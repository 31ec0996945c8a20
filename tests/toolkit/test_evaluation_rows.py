"""What can be asked for, what each row is, and how rows are summed up."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.silent import Silent
from helpers.tiny import STRENGTH, examine, images_for, linear, random_images, tiny_run
from purify_edge.errors import InputError, MissingError
from purify_toolkit.attacks.corruptions import Printed
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.attacks.search import NoAttack
from purify_toolkit.evaluate import selection
from purify_toolkit.evaluate.assess import assess
from purify_toolkit.evaluate.gates import Results
from purify_toolkit.evaluate.measure import Measurement, MeasurementPlan
from purify_toolkit.evaluate.report import headlines, tax
from purify_toolkit.evaluate.selection import DEFAULT, EvaluationRequest, check_libraries, plans, select
from purify_toolkit.evaluate.stats import mcnemar
from purify_toolkit.evaluate.threats import ATTACKS, ROWS, THREATS, Strength, attack_of
from purify_toolkit.recipe import EvaluationTable
from purify_toolkit.runs.pretrained import FOLDER, pretrained_names

CPU = torch.device("cpu")


def test_words_for_rows() -> None:
    assert select("default", transfer=False) == [row for row in ROWS if row in DEFAULT]
    assert select("white-box:autoattack", transfer=False) == ["clean:none", "white-box:autoattack"]
    assert select(" pgd ,query", transfer=False) == [
        "clean:none",
        "grey-box:pgd",
        "printed:pgd",
        "query:random-search",
        "query:square",
        "query:hop-skip-jump",
        "white-box:pgd",
        "bpda:pgd",
    ]
    assert select("default", transfer=True) == [row for row in ROWS if row in (*DEFAULT, "transfer:pgd")]
    assert select("all", transfer=True) == list(ROWS)
    assert select("all", transfer=False) == [row for row in ROWS if not row.startswith("transfer")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pgb", "no attack 'pgb' .did you mean 'pgd'..; known: default, all, the threats clean, noise"),
        ("white-box:pgdd", "did you mean 'white-box:pgd'"),
        ("clean,transfer", "transfer needs another run to make its examples on: --transfer-from RUN"),
    ],
)
def test_words_that_mean_nothing(words: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select(words, transfer=False)


def test_a_missing_library_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(*rows: str) -> None:
        check_libraries(plans(list(rows), STRENGTH, EvaluationRequest(), 1).rows.values())

    monkeypatch.setattr(selection, "find_spec", lambda name: None)
    check("clean:none", "white-box:pgd")
    with pytest.raises(MissingError, match=r"query:hop-skip-jump needs 'attacks'"):
        check("query:hop-skip-jump")
    with pytest.raises(MissingError, match=r"needs 'train'"):
        check("grey-box:autoattack")


def test_every_attack_has_a_row_and_a_name_of_its_own() -> None:
    attacks = [entry.make(STRENGTH) for entry in ATTACKS.values()]
    assert len({str(attack) for attack in attacks}) == len(attacks)
    assert {name for _, name in ROWS.values()} == set(ATTACKS)
    assert {threat for threat, _ in ROWS.values()} == set(THREATS)


@pytest.mark.parametrize("pair", pretrained_names())
def test_rows_are_called_what_they_are_called_in_the_reports_that_ship(pair: str) -> None:
    content = json.loads((FOLDER / pair / "evaluation" / "evaluation.json").read_text())
    settings = {"l1_epsilon": 10.0} | content["settings"]  # evaluations from before there were L1 attacks have none
    strength = Strength(**{field.name: settings[field.name] for field in fields(Strength)})
    for row in content["rows"]:
        assert str(attack_of(row["name"], strength)) == row["attack"]
    for row in content["curves"]:
        name = row["name"].removeprefix("curve:").rpartition(":")[0]
        assert str(attack_of(name, replace(strength, epsilon=row["size"]))) == row["attack"]


def test_what_is_printed_is_attacked_first() -> None:
    planned = plans(["grey-box:pgd", "printed:none", "printed:pgd"], STRENGTH, EvaluationRequest(curve_limit=0), 4).rows
    assert planned["printed:pgd"].attack == Printed(attack=planned["grey-box:pgd"].attack)
    assert planned["printed:none"].attack == Printed(attack=NoAttack())


def test_autoattack_says_which_losses_it_has() -> None:
    table = EvaluationTable(epsilon=0.1, steps=2, relative_step=1.0)
    ten = Strength.of(table, (1, 28, 28), 10, l2_epsilon=None, l1_epsilon=None)
    two = Strength.of(table, (3, 32, 32), 2, l2_epsilon=None, l1_epsilon=None)
    assert str(ATTACKS["autoattack"].make(ten)) == "AutoAttack (apgd-ce, apgd-t, fab-t, square), Linf 0.1"
    assert str(ATTACKS["autoattack"].make(two)) == "AutoAttack (apgd-ce, fab-t, square), Linf 0.1"
    assert (ten.l2_epsilon, two.l2_epsilon) == (1.5, 0.5)
    assert (ten.l1_epsilon, two.l1_epsilon) == (10.0, 12.0)
    said = Strength.of(table, (1, 28, 28), 10, l2_epsilon=2.0, l1_epsilon=3.0)
    assert (said.l2_epsilon, said.l1_epsilon) == (2.0, 3.0)


@pytest.mark.parametrize(
    ("classes", "channels", "attacks"),
    [
        (2, 3, ",".join(row for row in ROWS if row not in ("grey-box:autoattack", "grey-box:cw-l2"))),  # the costliest
        (3, 1, "default,transfer,grey-box:autoattack,query:square"),
    ],
)
def test_every_row_runs_with_few_classes(classes: int, channels: int, attacks: str, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", classes=classes, channels=channels, side=8)
    other = tiny_run(tmp_path / "other", classes=classes, channels=channels, side=8, seed=1)
    test = random_images(classes=classes, channels=channels, side=8, count=4)
    radii = {"l1_epsilon": 3.0, "l2_epsilon": 1.25}
    question = EvaluationRequest(attacks=attacks, costly_limit=1, curve_limit=3, transfer_from=other, **radii)
    report = assess(run, test, question, out=tmp_path / "out", device=CPU, progress=Silent())
    assert report.about["settings"].items() >= radii.items()
    assert list(report.results.rows) == select(attacks, transfer=True)
    for row, measurement in report.results.rows.items():
        threat, name = ROWS[row]
        assert len(measurement.defended) == (1 if ATTACKS[name].costly else 4), row
        assert (measurement.undefended is not None) == THREATS[threat].undefended
    gates = {gate.name: gate for gate in report.gates}
    assert gates["images lie in the ball and in [0, 1]"].passed, gates
    assert gates["size 0 is clean"].passed
    assert report.about["transfer_from"]["same_classifier"] is False


def test_transfer_needs_an_independent_run_of_the_same_data(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", classes=3, channels=1)
    test = random_images(classes=3, channels=1)
    colour = tiny_run(tmp_path / "colour", classes=3, channels=3)
    for other, message in ((run, "has the same purifier"), (colour, "does not fit")):
        with pytest.raises(InputError, match=message):
            question = EvaluationRequest(attacks="transfer", transfer_from=other)
            assess(run, test, question, out=tmp_path / "out", device=CPU, progress=Silent())


def measured(row: str, defended: str, undefended: str | None = None) -> Measurement:
    def right(text: str) -> np.ndarray:
        return np.array([mark == "1" for mark in text])

    plan = MeasurementPlan(row, row, ATTACKS[ROWS[row][1]].make(STRENGTH), len(defended))
    return Measurement(plan, right(defended), undefended and right(undefended), None, (0.0, 1.0), (), 0.0)


def test_a_headline_is_the_worst_case_image_by_image() -> None:
    rows = {
        row: measured(row, defended)
        for row, defended in {
            "white-box:fgsm": "110111",
            "white-box:pgd": "101111",
            "white-box:autoattack": "1110",
            "white-box:pgd-l2": "111111",
            "bpda:pgd": "000000",
        }.items()
    }
    lines = headlines(Results(rows, STRENGTH))
    on_all, worst = (line for line in lines if (line.threat, line.norm) == ("white-box", "Linf"))
    assert (on_all.n, on_all.correct, on_all.attacks) == (6, 4, ("white-box:fgsm", "white-box:pgd"))
    assert (worst.n, worst.correct) == (4, 1)
    assert worst.attacks == ("white-box:fgsm", "white-box:pgd", "white-box:autoattack")
    found = {(line.threat, line.norm): line for line in lines}
    assert worst.as_dict()["ci95"] == pytest.approx((0.0456, 0.6994), abs=1e-4)
    assert (found["white-box", "L2"].n, found["white-box", "L2"].correct) == (6, 6)
    assert found["bpda", "Linf"].correct == 0


def test_the_purifier_s_tax() -> None:
    found = tax(Results({"clean:none": measured("clean:none", "1110000000", "1111111100")}, STRENGTH))
    assert (found.undefended, found.defended, found.n) == (0.8, 0.3, 10)
    assert found.points == pytest.approx(50)
    assert found.p == pytest.approx(2 / 2**5)
    assert mcnemar(np.array([True, False]), np.array([True, False])) == 1.0


def test_grey_box_images_are_made_without_the_purifier(tmp_path: Path) -> None:
    """A purifier that inverts images changes nothing for a grey-box attacker, everything for the pipeline's answers."""

    class Inverting(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1 - x

    plain, _ = examine(tmp_path / "plain", attacks="grey-box:pgd,white-box:pgd,bpda")
    turned, _ = examine(tmp_path / "turned", attacks="grey-box:pgd,white-box:pgd,bpda", purifier=Inverting())
    assert np.array_equal(plain.rows["grey-box:pgd"].undefended, turned.rows["grey-box:pgd"].undefended)  # type: ignore[arg-type]
    assert not np.array_equal(plain.rows["grey-box:pgd"].defended, turned.rows["grey-box:pgd"].defended)
    assert np.array_equal(plain.rows["white-box:pgd"].defended, plain.rows["bpda:pgd"].defended) is True
    assert turned.rows["bpda:pgd"].defended.sum() > turned.rows["white-box:pgd"].defended.sum()


def test_carlini_and_wagner_counts_within_the_radius_only(tmp_path: Path) -> None:
    """On a linear model the distance to the boundary is known, and so is who falls."""
    classifier = linear(2)
    test = images_for(classifier, 60)
    weights = classifier[1].weight  # type: ignore[index]
    logits = classifier(test.images / 255)
    distance = (logits[:, 0] - logits[:, 1]).abs() / (weights[0] - weights[1]).norm()
    radius = float(distance.median())
    strength = Strength(epsilon=0.1, steps=2, relative_step=1.0, l2_epsilon=radius, l1_epsilon=2.0, classes=2)
    found, _ = examine(tmp_path, attacks="grey-box:cw-l2", classifier=classifier, test=test, strength=strength)
    undefended = found.rows["grey-box:cw-l2"].undefended
    assert undefended is not None
    assert undefended[(distance > radius * 1.001).numpy()].all()
    assert not undefended[(distance < radius * 0.97).numpy()].any()


def test_shrinking_steps_begin_as_long_as_the_radius() -> None:
    attack = ATTACKS["pgd-decay"].make(STRENGTH)
    assert attack == PGD(epsilon=STRENGTH.epsilon, steps=100, relative_step=1.0, decay=True)
    assert str(attack) == "PGD-100, Linf 0.1, steps shrinking from 0.1 to 0, 1 random start"
