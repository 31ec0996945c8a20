import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from purify_export.evaluation import evaluated
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import FOLDER, open_run

EVALUATION = json.loads((FOLDER / "fashion-mnist" / "evaluation" / "evaluation.json").read_text())


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A copy of the pair that ships, without its evaluation, as a run of the user's own."""
    ignored = shutil.ignore_patterns("evaluation")
    return open_run(shutil.copytree(FOLDER / "fashion-mnist", tmp_path / "run", ignore=ignored).as_posix())


def evaluate(run: RunFolder, content: object) -> None:
    folder = run.path / "evaluation"
    folder.mkdir()
    weights = json.loads((run.path / "metrics.json").read_text())["weights_sha256"]
    if isinstance(content, dict):
        content = {"weights_sha256": weights} | content
    (folder / "evaluation.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_an_evaluation_is_carried_with_its_curve(run: RunFolder) -> None:
    told: list[str] = []
    evaluate(run, {key: EVALUATION[key] for key in ("passed", "rows", "curves")})
    accuracy, curve = evaluated(run, told.append)
    assert told == []
    assert len(accuracy) == len(EVALUATION["rows"])
    assert accuracy[1].defended
    assert accuracy[1].accuracy == EVALUATION["rows"][1]["accuracy"]
    assert [(point.threat, point.size, point.n) for point in curve] == [
        (point["threat"], point["size"], point["n"]) for point in EVALUATION["curves"]
    ]


def test_a_pair_that_ships_brings_its_own_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pair = open_run("fashion-mnist")
    assert len(evaluated(pair, print)[1]) == len(EVALUATION["curves"])
    (tmp_path / "evaluations" / "fashion-mnist").mkdir(parents=True)
    own = EVALUATION | {"curves": EVALUATION["curves"][:1]}
    (tmp_path / "evaluations" / "fashion-mnist" / "evaluation.json").write_text(json.dumps(own))
    assert len(evaluated(pair, print)[1]) == 1  # the user's own comes first


def test_without_one_the_end_of_the_training_is_taken(run: RunFolder) -> None:
    accuracy, curve = evaluated(run, print)
    rows = json.loads((run.path / "metrics.json").read_text())["rows"]
    assert [(row.threat, row.defended, row.accuracy) for row in accuracy] == [
        (row["threat"], row["defended"], row["accuracy"]) for row in rows
    ]
    assert curve == ()


BAD: dict[str, tuple[Any, str]] = {
    "of other weights": (
        EVALUATION | {"weights_sha256": {"classifier": "0" * 64, "student": "1" * 64}},
        "it is of another classifier and student",
    ),
    "of another purifier": (
        EVALUATION | {"weights_sha256": EVALUATION["weights_sha256"] | {"student": "1" * 64}},
        "student; run purify-eval again",
    ),
    "doubted": ({"rows": EVALUATION["rows"], "passed": False}, "its own sanity gates doubt it"),
    "no JSON": ("{", "it cannot be read"),
    "not one of ours": ({"rows": 3}, "it cannot be read"),
    "a list": ([], "it cannot be read"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_evaluation_that_cannot_be_used_is_left_out_and_told(run: RunFolder, kind: str) -> None:
    content, message = BAD[kind]
    evaluate(run, content)
    told: list[str] = []
    accuracy, curve = evaluated(run, told.append)
    assert curve == ()
    assert len(accuracy) == 5  # the training's own figures
    assert len(told) == 1
    assert "evaluation.json is left out" in told[0]
    assert message in told[0]


def test_a_run_with_neither_has_none(run: RunFolder) -> None:
    (run.path / "metrics.json").unlink()
    assert evaluated(run, print) == ((), ())
