"""Fixtures of the toolkit's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.silent import Silent
from helpers.small_data import RECIPE, accept, write_idx
from purify_toolkit.data import idx
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.train.train import Request, train


@pytest.fixture(scope="session")
def idx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("idx")
    write_idx(folder)
    return folder


@pytest.fixture
def small_data(idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with Fashion-MNIST in small that the loader accepts."""
    monkeypatch.setitem(idx.SHA256, "FashionMNIST", accept(idx_folder))
    return idx_folder


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def trained(idx_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A whole small training, seed 0; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(idx.SHA256, "FashionMNIST", accept(idx_folder))
        train(Request(recipe_name="small", recipe_text=RECIPE, out=out, data=idx_folder), Silent())
    return RunFolder(out)


@pytest.fixture(scope="module")
def base(trained: RunFolder) -> RunFolder:
    """The run that studies begin with."""
    return trained


@pytest.fixture(scope="module")
def accepted(idx_folder: Path) -> Iterator[Path]:
    """As `small_data`, for a whole module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(idx.SHA256, "FashionMNIST", accept(idx_folder))
        yield idx_folder
