"""Fixtures of the toolkit's tests."""

from pathlib import Path

import pytest

from helpers.small_data import RECIPE


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path
