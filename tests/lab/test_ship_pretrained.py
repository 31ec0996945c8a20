import json
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from helpers.tiny import tiny_run
from lab import ship_pretrained
from purify_edge.errors import InputError
from purify_edge.files import file_sha256, write_json
from purify_toolkit.runs import pretrained
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.train.warm_start import start_from

pytestmark = pytest.mark.slow

Ship = Callable[..., RunFolder]


@pytest.fixture
def ship(trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ship:
    """Ship the small training to a folder of the test's, with options."""

    def run(*options: object) -> RunFolder:
        monkeypatch.setattr(ship_pretrained, "FOLDER", tmp_path)
        monkeypatch.setattr(sys, "argv", ["ship_pretrained.py", str(trained.path), "small", *map(str, options)])
        ship_pretrained.main()
        return RunFolder(tmp_path / "small")

    return run


def test_the_run_ships_as_it_is(ship: Ship, trained: RunFolder) -> None:
    shipped = ship()
    for name in ("run.json", "recipe.toml", "metrics.json", "samples.npz", "student.safetensors"):
        assert (shipped.path / name).read_bytes() == (trained.path / name).read_bytes()
    assert not (shipped.path / "adversarial_teacher.safetensors").exists()
    assert len(list((shipped.path / "images").glob("*-adversarial.png"))) == len(trained.info["class_names"])


def test_a_classifier_that_a_pair_has_already_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ship_pretrained, "FOLDER", tmp_path)
    first = tiny_run(tmp_path / "first", classes=3, channels=1)
    for name, seed in (("same", 0), ("other", 1)):
        run = tiny_run(tmp_path / name, classes=3, channels=1, seed=seed)
        write_json(run.path / "run.json", run.info | {"base": {"run": "first"}})
        ship_pretrained.share_classifier(RunFolder(run.path))
    ship_pretrained.share_classifier(first)
    shares = {name: RunFolder(tmp_path / name).weights_path("classifier").parent.name for name in ("same", "other")}
    assert shares == {"same": "first", "other": "other"}
    assert not (tmp_path / "same" / "classifier.safetensors").exists()
    assert RunFolder(tmp_path / "same").load_classifier().state_dict().keys()


def test_half_the_bytes_and_the_figures_of_what_they_became(ship: Ship, trained: RunFolder, small_data: Path) -> None:
    shipped = ship("--half", "--without-images", "--data", small_data)
    assert not shipped.has_samples
    assert not (shipped.path / "images").exists()
    values = [value for value in load_file(shipped.weights_path("student")).values() if value.is_floating_point()]
    assert {(value.ndim > 1, value.dtype) for value in values} == {(True, torch.float16), (False, torch.float32)}
    metrics = json.loads((shipped.path / "metrics.json").read_text())
    assert metrics["weights_sha256"]["student"] == file_sha256(shipped.weights_path("student"))
    assert metrics["weights_sha256"]["student"] != file_sha256(trained.weights_path("student"))
    test = load_data_of(trained, small_data).test
    x = test.images[:32].float() / 255
    with torch.no_grad():
        whole, half = (run.load_student()(x) for run in (trained, shipped))
    assert half.dtype == torch.float32
    assert 0 < (whole - half).abs().max() < 0.01


def test_a_purifier_ships_without_its_classifier_and_a_training_begins_from_it(
    ship: Ship, trained: RunFolder, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = ship("--half", "--without-images", "--without-classifier", "--data", small_data)
    metrics = json.loads((shipped.path / "metrics.json").read_text())
    assert metrics["weights_sha256"]["classifier"] == file_sha256(trained.weights_path("classifier"))
    assert metrics["weights_sha256"]["student"] == file_sha256(shipped.weights_path("student"))
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    assert "small" not in pretrained.pretrained_names()
    with pytest.raises(InputError, match=r"small is a purifier without a classifier; .*--as-is --classifier"):
        pretrained.open_run("small")
    table = msgspec.structs.replace(trained.recipe.student, start="small")
    purifier = shipped.new_purifier(table)
    start_from(purifier, table)
    assert torch.equal(purifier.head.weight, shipped.load_student().head.weight)
