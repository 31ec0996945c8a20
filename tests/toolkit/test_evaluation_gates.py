"""Each gate stands open for a sound evaluation, and is shut by what it is there for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import STRENGTH, Noisy, Quantising, Remembering, examine, images_for, linear
from purify_toolkit.attacks.search import UniformNoise
from purify_toolkit.data.splits import Split
from purify_toolkit.evaluate.gates import WHITE, Gate, Results, falls_with_size, white_box_strongest
from purify_toolkit.evaluate.measure import Measurement, MeasurementPlan
from purify_toolkit.evaluate.selection import EvaluationRequest
from purify_toolkit.evaluate.store import Store
from purify_toolkit.evaluate.threats import ATTACKS, AttackEntry, Strength
from purify_toolkit.runs.pretrained import open_run


def failed(gates: dict[str, Gate]) -> set[str]:
    return {name for name, gate in gates.items() if gate.passed is False}


@pytest.mark.slow
def test_the_shipped_pair_passes_all(tmp_path: Path) -> None:
    run = open_run(None)
    samples = run.load_samples()
    _, gates = examine(
        tmp_path,
        attacks="default,white-box:autoattack",
        classifier=run.load_classifier(),
        purifier=run.load_student(),
        test=Split(samples.images[:60], samples.labels[:60]),
        strength=Strength(epsilon=0.1, steps=10, relative_step=0.25, l2_epsilon=1.5, l1_epsilon=10.0, classes=10),
        question=EvaluationRequest(costly_limit=20, curve_limit=40),
    )
    assert {gate.passed for gate in gates.values()} == {True}, gates


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Gate]:
    return examine(tmp_path_factory.mktemp("sound"))[1]


def test_tiny_networks_pass_all(sound: dict[str, Gate]) -> None:
    assert failed(sound) == set()
    assert {name for name, gate in sound.items() if gate.passed is None} == {"library_warnings"}
    assert sound["library_warnings"].explanation == "it needs autoattack"


def test_masked_gradients(tmp_path: Path) -> None:
    _, gates = examine(tmp_path, purifier=Quantising())
    assert failed(gates) >= {"white_box_strongest", "chance_at_large_size"}
    assert "gradients are masked" in gates["chance_at_large_size"].explanation
    assert "accuracy is higher under the white-box attack" in gates["white_box_strongest"].explanation


def test_a_transfer_attack_that_beats_white_box(tmp_path: Path) -> None:
    """Without BPDA and grey-box rows, the examples of another pipeline tell as much."""
    classifier = linear()
    other = nn.Sequential(nn.Identity(), classifier)
    _, gates = examine(tmp_path, attacks="transfer:pgd,white-box:pgd", purifier=Quantising(), other=other)
    assert "transfer:pgd to white-box" in gates["white_box_strongest"].explanation
    assert gates["white_box_strongest"].passed is False


def test_accuracy_that_rises_with_the_size(tmp_path: Path) -> None:
    test = images_for(linear())
    _, gates = examine(tmp_path, purifier=Remembering(test), test=test)
    assert "falls_with_size" in failed(gates)
    assert "white-box: 0.1 to 0.2" in gates["falls_with_size"].explanation


def test_an_attack_that_is_too_weak(tmp_path: Path) -> None:
    """So short steps that neither many of them nor twice as many go far, while a single whole one does."""
    weak = replace(STRENGTH, steps=2, relative_step=0.02, epsilon=0.3)
    _, gates = examine(tmp_path, strength=weak)
    assert failed(gates) >= {"breaks_undefended", "single_step"}
    assert "the attack is too weak" in gates["breaks_undefended"].explanation


def test_too_few_steps(tmp_path: Path) -> None:
    _, gates = examine(tmp_path, strength=replace(STRENGTH, steps=2, relative_step=0.2, epsilon=0.08))
    assert "doubled_steps" in failed(gates)
    assert "with 4 steps" in gates["doubled_steps"].explanation


def test_a_random_model_is_not_clean_at_size_0(tmp_path: Path) -> None:
    _, gates = examine(tmp_path, purifier=Noisy())
    assert "size_0_is_clean" in failed(gates)


@pytest.mark.parametrize(
    ("moved", "epsilon"),
    [
        (lambda images: images + 0.2 * (images < 0.5), 0.1),
        (lambda images: images + 0.4, 0.4),
        (lambda images: images * torch.nan, 0.1),
    ],
    ids=["outside the ball", "outside the range", "no numbers"],
)
def test_images_outside_the_ball_or_the_range(
    moved: Callable[[Tensor], Tensor], epsilon: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faulty(UniformNoise):
        def __call__(self, model: object, images: Tensor, labels: Tensor, **kwargs: object) -> Tensor:
            return moved(images)

    entry = AttackEntry(lambda strength: Faulty(epsilon=strength.epsilon), ("noise",))
    monkeypatch.setitem(ATTACKS, "uniform", entry)
    _, gates = examine(tmp_path, attacks="noise:uniform", strength=replace(STRENGTH, epsilon=epsilon))
    assert failed(gates) == {"inside_ball"}
    assert "noise:uniform" in gates["inside_ball"].explanation


def test_saved_images_are_read_again(tmp_path: Path) -> None:
    examine(tmp_path, attacks="noise:uniform")
    (path,) = (tmp_path / "rows").glob("noise-uniform-*.npz")
    with np.load(path) as arrays:
        content = dict(arrays)
    content["attacked"][3, 0, 2, 2] += 0.2
    np.savez(path, **content)
    _, gates = examine(tmp_path, attacks="noise:uniform")
    assert failed(gates) == {"inside_ball"}
    assert gates["inside_ball"].explanation.startswith("noise:uniform, as saved: outside by 0.")


def test_autoattack_s_warnings(tmp_path: Path) -> None:
    """Of probabilities instead of logits, here."""
    results, gates = examine(
        tmp_path,
        attacks="white-box:autoattack",
        classifier=nn.Sequential(linear(), nn.Softmax(1)),
        test=images_for(linear(), 8),
    )
    assert failed(gates) == {"library_warnings"}
    assert results.rows["white-box:autoattack"].warnings
    assert "white-box:autoattack: " in gates["library_warnings"].explanation


def right(count: int, n: int = 100) -> Measurement:
    """The first `count` of n images right, under white-box PGD."""
    return Measurement(
        MeasurementPlan("", WHITE, STRENGTH.pgd, n), np.arange(n) < count, None, 0.1, (0.0, 1.0), (), 0.0
    )


def test_white_box_is_its_worst_case_and_more_than_a_single_step(nothing: Store) -> None:
    grey = replace(right(40), plan=MeasurementPlan("", "grey-box:pgd", STRENGTH.pgd, 100))
    rows = {"grey-box:pgd": grey, "white-box:fgsm": right(70)}
    assert white_box_strongest(Results(rows, STRENGTH), nothing).passed is None
    rows["white-box:pgd-margin"] = right(70)
    assert white_box_strongest(Results(rows, STRENGTH), nothing).passed is False
    rows["white-box:pgd"] = right(30)
    assert white_box_strongest(Results(rows, STRENGTH), nothing).passed is True
    rows["white-box:autoattack"] = right(5, n=5)  # of the first five nothing can be said
    assert white_box_strongest(Results(rows, STRENGTH), nothing).passed is True


@pytest.fixture
def nothing(tmp_path: Path) -> Store:
    """A store of no images."""
    return Store(tmp_path, Split(torch.zeros(1, 1, 1, 1), torch.zeros(1)), {}, 0)


def test_what_was_not_run_is_not_passed(tmp_path: Path) -> None:
    _, gates = examine(tmp_path, attacks="clean")
    assert {name for name, gate in gates.items() if gate.passed is None} == set(gates) - {"inside_ball"}
    _, gates = examine(tmp_path, question=EvaluationRequest(curve_limit=0))
    assert {name for name, gate in gates.items() if gate.passed is None} == {
        "falls_with_size",
        "chance_at_large_size",
        "doubled_steps",
        "size_0_is_clean",
        "library_warnings",
    }


def test_chance_alone_seldom_fails_a_gate(nothing: Store) -> None:
    """Accuracies of a coin, with no attack in them at all, rise and fall: 40 curves, of which 2 may fail."""
    random = np.random.default_rng(0)
    fails = 0
    for _ in range(40):
        curve = {size: replace(right(0, 200), defended=random.random(200) < 0.5) for size in (0.0, 0.1, 0.2, 0.4, 0.5)}
        fails += falls_with_size(Results({}, STRENGTH, {WHITE: curve}), nothing).passed is False
    assert fails <= 4
