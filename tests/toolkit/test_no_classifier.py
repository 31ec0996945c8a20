"""A student that is trained where the classifier is not: by teachers and examples that were made elsewhere."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from helpers.silent import Silent, request_for, train_only
from helpers.small_data import ADAPTIVE, RECIPE
from purify_edge.errors import InputError
from purify_edge.files import file_sha256
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.history import read_metrics
from purify_toolkit.train.cli import main
from purify_toolkit.train.train import train

TAUGHT = RECIPE.replace("classifier_guidance = 0.5", "classifier_guidance = 0.0\nteacher_guidance = 0.5").replace(
    "refresh_epochs = 2", "refresh_epochs = 1000"
)
"""Examples are made once, so that they are the same where they cannot be made anew."""


@pytest.fixture(scope="module")
def teachers(accepted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of classifier and teachers; not to be changed."""
    out = tmp_path_factory.mktemp("teachers") / "run"
    assert train(request_for(out, accepted, recipe_text=TAUGHT, teachers_only=True), Silent()) == []
    return out


@pytest.fixture
def elsewhere(teachers: Path, tmp_path: Path) -> Path:
    """A copy of that run without the classifier."""
    copy = Path(shutil.copytree(teachers, tmp_path / "elsewhere"))
    (copy / "classifier.safetensors").unlink()
    return copy


def test_teachers_alone_are_trained_and_keep_their_examples(teachers: Path) -> None:
    run = RunFolder(teachers)
    assert {path.stem for path in teachers.glob("*.safetensors")} == {
        "classifier",
        "adversarial_teacher",
        "normal_teacher",
    }
    assert run.load_examples() is not None
    assert run.metrics is None
    losses = {line["stage"]: line["losses"] for line in read_metrics(run)}
    assert losses["adversarial_teacher"].keys() == {"reconstruction", "guidance"}
    assert losses["adversarial_teacher"]["guidance"] > 0  # the student's weight is 0


def test_the_student_learns_elsewhere_and_is_judged_where_the_classifier_is(
    teachers: Path, elsewhere: Path, accepted: Path, tmp_path: Path
) -> None:
    request = partial(request_for, folder=accepted, recipe_text=TAUGHT, resume=True)
    assert train(request(elsewhere, no_classifier=True), Silent()) == []
    run = RunFolder(elsewhere)
    assert not run.has("classifier")
    assert run.metrics is None
    first, *_, last = (line for line in read_metrics(run) if line["stage"] == "student")
    assert set(last["losses"]) == {"imitation", "reconstruction"}
    assert sum(last["losses"].values()) < sum(first["losses"].values())

    beside = Path(shutil.copytree(teachers, tmp_path / "beside"))
    train_only(request(beside))
    expected = read_metrics(RunFolder(beside))[-1]  # it made one example anew
    assert last["losses"] == pytest.approx(expected["losses"], rel=0.02)
    assert last["validation"] == {"l1_clean": pytest.approx(expected["validation"]["l1_clean"], rel=0.02)}

    shutil.copy(teachers / "classifier.safetensors", elsewhere)
    rows = train(request(elsewhere), Silent())
    assert {row.n for row in rows} == {200}
    metrics = run.metrics
    assert metrics is not None
    assert metrics["weights_sha256"]["student"] == file_sha256(elsewhere / "student.safetensors")
    assert not (elsewhere / "checkpoints").exists()


def without_examples(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")


def without_a_teacher(run: Path) -> None:
    (run / "adversarial_teacher.safetensors").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_examples, "has no checkpoints/examples.pt, the adversarial examples; train it first where the"),
        (without_a_teacher, r"has no adversarial_teacher\.safetensors; train it first .* with --teachers-only"),
    ],
)
def test_what_is_missing_is_named(
    elsewhere: Path, accepted: Path, change: Callable[[Path], None], message: str
) -> None:
    change(elsewhere)
    with pytest.raises(InputError, match=message):
        train(request_for(elsewhere, accepted, recipe_text=TAUGHT, resume=True, no_classifier=True), Silent())
    assert not (elsewhere / "student.safetensors").exists()


@pytest.mark.parametrize("recipe", [RECIPE, ADAPTIVE])
def test_a_student_that_asks_the_classifier_is_refused(accepted: Path, tmp_path: Path, recipe: str) -> None:
    (tmp_path / "recipe.toml").write_text(recipe)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"the recipe's student asks the classifier; .* classifier_guidance = 0"):
        train(request_for(tmp_path, accepted, recipe_text=recipe, resume=True, no_classifier=True), Silent())


@pytest.mark.parametrize("options", [[], ["--resume", "--base", "fashion-mnist"], ["--resume", "--teachers-only"]])
def test_options_that_do_not_go_with_it_are_refused(options: list[str], tmp_path: Path) -> None:
    command = ["fashion-mnist", "--no-classifier", "--out", str(tmp_path / "run"), *options]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 2
    assert "--no-classifier goes on with a run whose teachers are trained: it needs --resume" in found.stderr


def test_the_command_says_what_is_left_to_do(elsewhere: Path, accepted: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(TAUGHT)
    command = [str(recipe), "--data", str(accepted), "--out", str(elsewhere), "--resume", "--no-classifier"]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 0, found.stderr
    assert "the student is trained in" in found.stderr
    assert "the same command with --resume, without this option" in found.stderr
    assert found.stdout == ""
