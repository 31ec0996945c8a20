"""An evaluation goes on where it stopped, and starts again where something is no longer the same."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.silent import Silent
from helpers.tiny import random_images, tiny_run
from purify_toolkit.attacks.base import Attack
from purify_toolkit.attacks.gradient import FGSM
from purify_toolkit.data.splits import Split
from purify_toolkit.evaluate.assess import assess, default_out
from purify_toolkit.evaluate.report import EvaluationReport
from purify_toolkit.evaluate.selection import EvaluationRequest
from purify_toolkit.evaluate.threats import ATTACKS, Strength
from purify_toolkit.networks.architectures import Purifier
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import open_run

QUESTION = EvaluationRequest(attacks="grey-box:fgsm,white-box:fgsm,noise:uniform")
ROWS = ["clean:none", "noise:uniform", "grey-box:fgsm", "white-box:fgsm"]

Evaluate = Callable[..., EvaluationReport]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return tiny_run(tmp_path / "run", classes=3, channels=1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The attacks that have been run, since the test emptied this."""
    run: list[str] = []
    for name, entry in list(ATTACKS.items()):
        monkeypatch.setitem(ATTACKS, name, replace(entry, make=counting(name, entry.make, run)))
    return run


def counting(name: str, make: Callable[[Strength], Attack], run: list[str]) -> Callable[[Strength], Attack]:
    """Make the same attack, which notes its name when it is run."""

    def made(strength: Strength) -> Attack:
        attack = make(strength)

        class Counting(type(attack)):  # type: ignore[misc]
            def __call__(self, *arguments: object, **options: object) -> Tensor:
                run.append(name)
                return super().__call__(*arguments, **options)  # type: ignore[no-any-return]

        return Counting(**vars(attack))

    return made


@pytest.fixture
def evaluate(run: RunFolder, tmp_path: Path) -> Evaluate:
    def evaluate(question: EvaluationRequest = QUESTION, test: Split | None = None) -> EvaluationReport:
        test = test or random_images(classes=3, channels=1, count=20)
        return assess(
            RunFolder(run.path), test, question, out=tmp_path / "out", device=torch.device("cpu"), progress=Silent()
        )

    return evaluate


def figures(report: EvaluationReport) -> list[dict[str, object]]:
    return report.as_dict()["rows"]  # type: ignore[no-any-return]


def test_what_is_measured_is_not_measured_again(evaluate: Evaluate, calls: list[str]) -> None:
    first = evaluate()
    assert calls == ["none", "uniform", "fgsm", "fgsm"]
    calls.clear()
    assert figures(evaluate()) == figures(first)  # with the seconds of the first time
    assert calls == []
    more = evaluate(replace(QUESTION, attacks="grey-box:fgsm,bpda"))
    assert calls == ["pgd"]
    assert list(more.results.rows) == ["clean:none", "grey-box:fgsm", "bpda:pgd"]


def test_an_interruption_costs_the_attack_under_way(
    evaluate: Evaluate, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(FGSM):
        def __call__(self, *arguments: object, **options: object) -> Tensor:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(ATTACKS, "fgsm", replace(ATTACKS["fgsm"], make=lambda s: Interrupted(epsilon=s.epsilon)))
        with pytest.raises(KeyboardInterrupt):
            evaluate()
    assert calls == ["none", "uniform"]
    calls.clear()
    resumed = figures(evaluate())
    assert calls == ["fgsm", "fgsm"]
    whole = figures(evaluate(replace(QUESTION, force=True)))
    assert calls == ["fgsm", "fgsm", "none", "uniform", "fgsm", "fgsm"]

    def without_time(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]

    assert without_time(resumed) == without_time(whole)


def test_other_weights_images_or_seeds_are_measured_anew(evaluate: Evaluate, run: RunFolder, calls: list[str]) -> None:
    evaluate()
    calls.clear()
    test = random_images(classes=3, channels=1, count=20)
    evaluate(test=Split(255 - test.images, test.labels))
    evaluate(test=Split(test.images, test.labels.flip(0)))
    evaluate(replace(QUESTION, limit=7))
    evaluate(replace(QUESTION, seed=1))
    torch.manual_seed(5)
    run.save_weights("student", Purifier(1, width=4, depth=2, blocks=1))
    evaluate()
    assert len(calls) == 5 * 4
    recipe = (run.path / "recipe.toml").read_text()
    (run.path / "recipe.toml").write_text(recipe.replace("epsilon = 0.1\n", "epsilon = 0.2\n"))
    calls.clear()
    evaluate()
    assert calls == ["uniform", "fgsm", "fgsm"]  # the clean images do not depend on the size


def test_a_quick_trial_costs_nothing_of_a_long_evaluation(evaluate: Evaluate, calls: list[str]) -> None:
    evaluate()
    evaluate(replace(QUESTION, limit=5))
    calls.clear()
    evaluate()
    assert calls == []


def test_damaged_files_are_made_again(evaluate: Evaluate, calls: list[str], tmp_path: Path) -> None:
    evaluate()
    calls.clear()
    rows = tmp_path / "out" / "rows"
    (fgsm,) = rows.glob("grey-box-fgsm-*.json")
    fgsm.write_text(fgsm.read_text()[:-40])
    next(rows.glob("noise-uniform-*.npz")).unlink()
    (clean,) = rows.glob("clean-none-*.json")  # of something else, under a name that is not its own
    clean.write_text(clean.read_text().replace('"seed": 0', '"seed": 1'))
    evaluate()
    assert calls == ["none", "uniform", "fgsm"]
    assert not [path for path in rows.iterdir() if path.name.startswith(".")]


def test_the_report_holds_what_made_it(evaluate: Evaluate, run: RunFolder, tmp_path: Path) -> None:
    report = evaluate()
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content == json.loads(json.dumps(report.as_dict()))
    assert content["recipe"] == (run.path / "recipe.toml").read_text()
    assert content["seed"] == 0
    assert content["settings"]["epsilon"] == 0.1
    assert content["evaluated_with"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert set(content["weights_sha256"]) == {"classifier", "student"}
    assert [row["name"] for row in content["rows"]] == [
        *2 * ["clean:none"],
        *2 * ["noise:uniform"],
        *2 * ["grey-box:fgsm"],
        "white-box:fgsm",
    ]
    assert {row["n"] for row in content["rows"]} == {20}
    assert content["threats"]["grey-box"] == "the attacker knows the classifier only"
    assert len(content["gates"]) == 9


def test_where_a_report_goes(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_out(run) == run.path / "evaluation"
    assert default_out(open_run(None)) == Path("evaluations/fashion-mnist")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert default_out(run) == Path("evaluations/run")


def test_the_seed_decides_the_attacks_random_choices(evaluate: Evaluate, tmp_path: Path) -> None:
    for seed in (0, 1, 1):
        evaluate(replace(QUESTION, attacks="noise:uniform", seed=seed, force=True))
    images = []
    for path in (tmp_path / "out" / "rows").glob("noise-uniform-*.npz"):
        with np.load(path) as arrays:
            images.append(arrays["attacked"])
    assert len(images) == 2
    assert not np.array_equal(images[0], images[1])
