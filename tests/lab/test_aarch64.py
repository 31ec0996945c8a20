"""The run on an emulated Arm processor: its parts, and all of it where make test-aarch64 sets PURIFY_TEST_AARCH64."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.project import REPOSITORY
from lab.aarch64 import compare, require_emulator, write_pictures
from purify_edge import Pipeline
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.shipped import FOLDER
from purify_edge.errors import MissingError


def rows(folder: str, labels: list[int], probability: float) -> str:
    return "\n".join(
        json.dumps({"file": f"{folder}/{name}.png", "label": label, "probability": probability})
        for name, label in enumerate(labels)
    )


def test_answers_are_compared_by_the_names_of_files() -> None:
    assert compare(rows("/here", [1, 2, 3], 0.75), rows("/there", [1, 0, 3], 0.5)) == (3, 2, 0.25)


def test_answers_on_other_files_are_not_compared() -> None:
    with pytest.raises(SystemExit, match="3 files were classified here, and 2 there"):
        compare(rows("/here", [1, 2, 3], 0.75), rows("/there", [1, 2], 0.75))


def test_the_pictures_are_the_golden_images_clean_and_attacked_in_turn(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 4)
    golden = load_golden(Bundle.open(FOLDER / "fashion-mnist"))
    files = sorted((tmp_path / "pictures").iterdir())
    images = np.stack([np.asarray(Image.open(file))[..., None] for file in files])
    np.testing.assert_array_equal(images[::2], golden["clean"].images[:2])
    np.testing.assert_array_equal(images[1::2], golden["adversarial"].images[:2])
    with Pipeline.load("fashion-mnist", engine="onnxruntime", precision="fp32") as pipeline:
        expected = golden["clean"].defended[:2].argmax(axis=1)
        assert pipeline.predict(images[::2]).labels.tolist() == expected.tolist()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="apt-get install apt dpkg proot qemu-user-static"):
        require_emulator()


@pytest.mark.skipif(not os.environ.get("PURIFY_TEST_AARCH64"), reason="takes minutes: make test-aarch64")
def test_the_wheel_answers_on_an_arm_as_it_does_here() -> None:
    command = [sys.executable, "-m", "lab.aarch64", "--short"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=3600)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "aarch64" in done.stdout
    assert "32 of 32 labels as here" in done.stdout
