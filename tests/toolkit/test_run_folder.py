import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from purify_edge.errors import InputError
from purify_edge.files import atomic
from purify_toolkit.runs.folder import RunFolder


@pytest.fixture
def copy(trained: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(trained.path, tmp_path / "run")))


def test_the_networks_come_back_frozen_and_in_evaluation_mode(trained: RunFolder) -> None:
    for network in (trained.load_classifier(), trained.load_student(), trained.load_teacher("normal_teacher")):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_samples_come_back(trained: RunFolder) -> None:
    samples = trained.load_samples()
    assert samples.images.shape == (200, 1, 28, 28)
    assert samples.images.dtype == torch.uint8
    assert samples.indices.tolist() == list(range(200))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run folder"):
        _ = RunFolder(tmp_path).info
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(InputError, match="is not a run folder"):
        _ = RunFolder(tmp_path).info
    (tmp_path / "run.json").write_text(json.dumps({"seed": 0}))
    with pytest.raises(InputError, match=r"class_names, commit, dataset.* missing"):
        _ = RunFolder(tmp_path).info


def test_a_run_without_its_recipe_is_refused(copy: RunFolder) -> None:
    (copy.path / "recipe.toml").unlink()
    with pytest.raises(InputError, match=r"has no recipe\.toml"):
        _ = copy.recipe


def test_a_run_without_a_student_is_refused(copy: RunFolder) -> None:
    copy.weights_path("student").unlink()
    with pytest.raises(InputError, match=r"has no student\.safetensors; finish the training"):
        copy.load_student()


@pytest.mark.parametrize("damage", ["cut", "another network", "empty"])
def test_damaged_weights_are_refused(copy: RunFolder, damage: str) -> None:
    path = copy.weights_path("student")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        shutil.copy(copy.weights_path("classifier"), path)
    with pytest.raises(InputError, match="does not hold the recipe's student"):
        copy.load_student()


@pytest.mark.parametrize("content", [None, b"", b"no zip"])
def test_missing_or_damaged_samples_are_refused(copy: RunFolder, content: bytes | None) -> None:
    path = copy.path / "samples.npz"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=r"samples\.npz cannot be read"):
        copy.load_samples()
    np.savez(path, images=np.zeros(3))
    with pytest.raises(InputError, match=r"samples\.npz cannot be read"):
        copy.load_samples()


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    with pytest.raises(RuntimeError), atomic(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    target.write_text("old")
    with atomic(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_damaged_evaluation_is_refused(copy: RunFolder) -> None:
    (copy.path / "metrics.json").write_text('{"rows": [')
    with pytest.raises(InputError, match=r"metrics\.json is damaged .*--resume"):
        copy.provenance()
