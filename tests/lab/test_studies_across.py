import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.modified import modified
from lab.studies import across_classifiers
from purify_toolkit.runs.data import load_data
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.history import read_metrics

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def across(accepted: Path, trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A study of two other classifiers, and its arguments; not to be changed."""
    out = tmp_path_factory.mktemp("study") / "across"
    command = [str(trained.path), "--data", str(accepted), "--classifiers", "pooled:8:1,separable:8:1", "--epochs", "5"]
    across_classifiers.main([*command, "--seed", "0", "--out", str(out)])
    return out, command


def test_its_own_classifier_has_the_figures_of_the_run(across: tuple[Path, list[str]], trained: RunFolder) -> None:
    """All 200 test images are one batch, so that the random starts are the same."""
    results = json.loads((across[0] / "across.json").read_text())
    own = results["classifiers"][0]
    expected = json.loads((trained.path / "metrics.json").read_text())["rows"]
    assert own["rows"] == [row for row in expected if row["threat"] != "white-box"]
    assert own["name"] == "its own"


def test_other_classifiers_are_of_the_architecture_asked_for_and_judge_themselves(
    across: tuple[Path, list[str]], trained: RunFolder, accepted: Path
) -> None:
    results = json.loads((across[0] / "across.json").read_text())["classifiers"]
    assert [found["name"] for found in results] == ["its own", "pooled-8-1", "separable-8-1"]
    test, student = load_data(trained.recipe, accepted).test, trained.load_student()
    for found in results[1:]:
        run = RunFolder(across[0] / found["name"])
        table = run.recipe.classifier
        assert found["name"] == f"{table.architecture}-{table.width}-{table.blocks}"
        assert table.epochs == len(read_metrics(run)) == 5
        assert run.recipe.student == trained.recipe.student
        assert [path.stem for path in run.path.glob("*.safetensors")] == ["classifier"]
        classifier = run.load_classifier()
        rows = {(row["threat"], row["defended"]): row["correct"] for row in found["rows"]}
        images, labels = test.images / 255, test.labels
        for defended, model in ((False, classifier), (True, nn.Sequential(student, classifier))):
            with torch.no_grad():
                assert rows["clean", defended] == int((model(images).argmax(1) == labels).sum())
        assert rows["grey-box", False] < rows["clean", False]
        assert all(row["n"] == 200 and len(row["ci95"]) == 2 for row in found["rows"])


def test_what_is_measured_is_not_measured_again_unless_it_is_of_another_purifier(
    across: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, (run, *rest) = Path(shutil.copytree(across[0], tmp_path / "out")), across[1]
    asked: list[str] = []
    evaluate = across_classifiers.evaluate
    monkeypatch.setattr(
        across_classifiers, "evaluate", lambda *given, **more: asked.append("measured") or evaluate(*given, **more)
    )
    before = modified(out)
    across_classifiers.main([run, *rest, "--seed", "0", "--out", str(out)])
    assert (asked, modified(out)) == ([], before)
    other = RunFolder(Path(shutil.copytree(run, tmp_path / "run")))
    other.save_weights("student", other.new_purifier(other.recipe.student))
    across_classifiers.main([str(other.path), *rest, "--seed", "0", "--out", str(out)])
    assert (len(asked), modified(out)) == (3, before)
