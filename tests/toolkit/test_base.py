"""Training for the classifier of another run, with its teachers where they are the same: --base."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.files_of_models import onnx_of
from helpers.silent import Interrupting, request_for, train_only
from helpers.small_data import ADAPTIVE, RECIPE
from helpers.user_models import Tiny, trained_tiny
from purify_edge.errors import InputError
from purify_toolkit.networks.user_classifier import ClassifierSource
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.history import read_metrics
from purify_toolkit.train.request import Request
from purify_toolkit.train.train import train

GIVEN = ("classifier", "adversarial_teacher", "normal_teacher")


def request(out: Path, folder: Path, base: RunFolder | None, recipe: str = ADAPTIVE, **changes: object) -> Request:
    return request_for(out, folder, recipe_text=recipe, base=base, limit=192, **changes)


def changed_base(trained: RunFolder, tmp_path: Path, **info: object) -> RunFolder:
    base = Path(shutil.copytree(trained.path, tmp_path / "base"))
    (base / "run.json").write_text(json.dumps(trained.info | info))
    return RunFolder(base)


def test_the_student_alone_is_trained(trained: RunFolder, small_data: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in trained.path.glob("*.safetensors")}
    progress = Interrupting()
    train_only(request(tmp_path / "run", small_data, trained), progress)
    run = RunFolder(tmp_path / "run")
    assert set(progress.stages) == {"student", "evaluation"}
    for name in GIVEN:
        assert run.weights_path(name).read_bytes() == before[f"{name}.safetensors"]
    assert run.weights_path("student").read_bytes() != before["student.safetensors"]
    assert {path.name: path.read_bytes() for path in trained.path.glob("*.safetensors")} == before
    assert run.info["base"]["run"] == "small"
    assert "accuracy_white_box" in read_metrics(run)[-1]["validation"]


def test_interrupted_it_is_resumed_with_its_base_alone(trained: RunFolder, small_data: Path, tmp_path: Path) -> None:
    train_only(request(tmp_path / "whole", small_data, trained))
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(request(out, small_data, trained), Interrupting(5))  # within the second of its three epochs
    with pytest.raises(InputError, match=r"is of another training .*classifier_sha256"):
        base = changed_base(trained, tmp_path)
        shutil.copy(base.weights_path("student"), base.weights_path("classifier"))
        train(request(out, small_data, base, resume=True), Interrupting())
    train_only(request(out, small_data, trained, resume=True))
    expected, found = (load_file(folder / "student.safetensors") for folder in (tmp_path / "whole", out))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "taken"),
    [
        ("steps = 2\nrelative_step = 0.5\nrefresh", "steps = 1\nrelative_step = 0.5\nrefresh", ["normal_teacher"]),
        ("classifier_guidance = 0.5", "classifier_guidance = 0.25", ["normal_teacher"]),
        ("epochs = 2", "epochs = 1", []),
    ],
)
def test_teachers_of_another_kind_are_trained_anew(
    trained: RunFolder, small_data: Path, tmp_path: Path, old: str, new: str, taken: list[str]
) -> None:
    """The normal one knows neither attack nor guidance."""
    assert old in RECIPE
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(request(out, small_data, trained, RECIPE.replace(old, new)), Interrupting(1))
    run = RunFolder(out)
    assert [name for name in run.stages if run.has(name)] == ["classifier", *taken]


def test_a_teacher_that_is_not_needed_is_not_taken(trained: RunFolder, small_data: Path, tmp_path: Path) -> None:
    recipe = RECIPE.replace("adversarial_teacher_weight = 0.5", "adversarial_teacher_weight = 1.0")
    train_only(request(tmp_path / "run", small_data, trained, recipe))
    assert not RunFolder(tmp_path / "run").has("normal_teacher")
    assert RunFolder(tmp_path / "run").has("adversarial_teacher")


def test_a_base_of_other_data_or_networks_is_refused(trained: RunFolder, small_data: Path, tmp_path: Path) -> None:
    cases = [("dataset", "mnist"), ("class_names", ["cat", "dog"]), ("image_shape", [3, 28, 28])]
    for number, (key, value) in enumerate(cases):
        base = changed_base(trained, tmp_path / str(number), **{key: value})
        with pytest.raises(InputError, match=f"--base .*base does not fit: its {key} is "):
            train(request(tmp_path / "out", small_data, base), Interrupting())
        assert not (tmp_path / "out").exists()
    other = ADAPTIVE.replace("learning_rate = 1e-2", "learning_rate = 2e-2", 1)
    with pytest.raises(InputError, match=r"does not fit: the table \[classifier\] of its recipe\.toml is another one"):
        train(request(tmp_path / "out", small_data, trained, other), Interrupting())
    assert not (tmp_path / "out").exists()


def test_an_unfinished_base_is_refused_before_any_work(trained: RunFolder, small_data: Path, tmp_path: Path) -> None:
    base = changed_base(trained, tmp_path)
    base.weights_path("classifier").unlink()
    with pytest.raises(
        InputError, match=r"base has no classifier\.safetensors; expected a run that purify-train finished"
    ):
        train(request(tmp_path / "run", small_data, base), Interrupting())
    assert not (tmp_path / "run").exists()


def test_a_base_with_a_users_own_classifier_gives_that_one(small_data: Path, tmp_path: Path) -> None:
    torch.save(trained_tiny(0.3, 0.35, epochs=1).state_dict(), tmp_path / "mine.pt")
    own = ClassifierSource("helpers.user_models:Tiny", (0.3,), (0.35,))
    arm = RECIPE.replace("imitation = 1.0", "imitation = 0.0")
    options = {"classifier": own, "weights": tmp_path / "mine.pt"}
    train_only(request(tmp_path / "base", small_data, None, arm, **options))
    base = RunFolder(tmp_path / "base")
    before = base.weights_path("classifier").read_bytes()
    assert ClassifierSource.from_dict(base.info["classifier"]) == own
    assert {line["stage"] for line in read_metrics(base)} == {"student"}
    train_only(request(tmp_path / "run", small_data, base, arm))
    run = RunFolder(tmp_path / "run")
    assert run.info["classifier"] == base.info["classifier"]
    assert run.weights_path("classifier").read_bytes() == before
    given = Tiny().state_dict() | torch.load(tmp_path / "mine.pt", weights_only=True)
    found = run.load_classifier().network.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(found[key], value) for key, value in given.items())


def test_a_users_file_travels_from_run_to_run(small_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx2pytorch")
    file, arm = tmp_path / "mine.onnx", RECIPE.replace("imitation = 1.0", "imitation = 0.0")
    content = onnx_of(trained_tiny(0.3, 0.35, epochs=1), opset=13, older=True, channels=1, size=28)
    file.write_bytes(content)
    own = ClassifierSource(str(file), (0.3,), (0.35,), own_weights=False)
    train_only(request(tmp_path / "base", small_data, None, arm, classifier=own))
    file.unlink()
    train_only(request(tmp_path / "base", small_data, None, arm, classifier=own, resume=True))
    train_only(request(tmp_path / "run", small_data, RunFolder(tmp_path / "base"), arm))
    run = RunFolder(tmp_path / "run")
    assert run.weights_path("classifier").read_bytes() == content
    assert not (run.path / "classifier.safetensors").exists()
    file.write_bytes(b"another")
    with pytest.raises(InputError, match=r"is of another training .*file_sha256"):
        train(request(tmp_path / "base", small_data, None, arm, classifier=own, resume=True), Interrupting())
