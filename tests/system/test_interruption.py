"""Ctrl-C in every command, and kill -9 and a full disk in the one that runs for hours."""

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from helpers import small_data
from helpers.curves import points
from helpers.fixtures import Start
from helpers.processes import fill_the_disk, wait_for
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.history import read_metrics
from purify_toolkit.runs.pretrained import FOLDER

EPOCHS = {"classifier": 3, "adversarial teacher": 2, "normal teacher": 2, "student": 3}
PROGRAM = [sys.executable, small_data.__file__]
TOLERANCE = 1e-5
"""Of weights and curves: another process may round sums differently, 1.2e-6 was seen; a lost batch makes 3e-3."""


@pytest.fixture
def start_training(idx_folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Start purify-train on the small data; its standard error goes to `log` in the temporary folder."""
    (tmp_path / "small.toml").write_text(small_data.RECIPE)
    running = []

    def start(*options: str, **process_options: Any) -> "subprocess.Popen[bytes]":
        arguments = [str(tmp_path / "small.toml"), "--out", str(tmp_path / "run"), *options]
        with (tmp_path / "log").open("wb") as log:
            command = [*PROGRAM, "train", str(idx_folder), *arguments]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, **process_options)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def interrupt(process: "subprocess.Popen[str]", when: str) -> str:
    """Press Ctrl-C once standard error has said `when`; its last line, after an end as it should be."""
    assert process.stderr is not None
    said = ""
    while when not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=300)
    said += rest
    assert process.returncode == 130, said
    assert "Traceback" not in said
    return said.splitlines()[-1]


@pytest.mark.parametrize(
    "when",
    ["importing", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("golden set", "models/*.fp32.onnx"))],
)
def test_export_interrupted_leaves_no_half_bundle(start: Start, tmp_path: Path, when: str) -> None:
    assert interrupt(start("purify-export", "--fp16", "--out", tmp_path / "bundle"), when).endswith("interrupted")
    assert list(tmp_path.iterdir()) == []


def test_check_interrupted(start: Start, bundle_path: Path) -> None:
    assert interrupt(start("purify-check", bundle_path, "--rounds", 1_000_000), "latency").endswith("interrupted")


def test_run_interrupted_leaves_whole_images_only(start: Start, bundle_path: Path, tmp_path: Path) -> None:
    image = FOLDER / "fashion-mnist" / "images" / "bag-clean.png"
    saved, many = tmp_path / "purified", tmp_path / "images"
    many.mkdir()
    for number in range(5_000):
        (many / f"{number}.png").symlink_to(image)
    command = ("purify-run", bundle_path, many, "--save", saved, "--save-grid", tmp_path / "grid.png", "--json")
    process = start(*command)  # whose lines nobody reads: it does not end meanwhile
    wait_for(lambda: saved.is_dir() and len(list(saved.iterdir())) > 20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    files = list(saved.iterdir())
    assert 20 < len(files) < 5_000
    for file in files:
        with Image.open(file) as purified:
            purified.load()
    assert not (tmp_path / "grid.png").exists()


def test_evaluation_interrupted(idx_folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(FOLDER / "fashion-mnist", tmp_path / "run"))
    recipe = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(recipe.replace("validation_size = 5000", "validation_size = 100"))
    command = [*PROGRAM, "eval", str(idx_folder), str(run), "--force"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        last = interrupt(process, "evaluation")
    assert last.endswith("interrupted; the same command with --resume goes on with the attack under way")


def test_training_interrupted_says_how_to_go_on(start_training: Start, tmp_path: Path) -> None:
    process = start_training()
    wait_for(lambda: "normal teacher: epoch 1/2" in (tmp_path / "log").read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130
    log = (tmp_path / "log").read_text()
    assert "--resume" in log
    assert "Traceback" not in log
    assert not list((tmp_path / "run").glob(".*"))  # no half written file


@pytest.mark.slow
@pytest.mark.parametrize("size", [10_000, 100_000])  # too small for the weights, for the checkpoint of a teacher
def test_training_on_a_disk_that_fills_up_can_go_on_later(start_training: Start, tmp_path: Path, size: int) -> None:
    process = start_training(preexec_fn=partial(fill_the_disk, size))
    assert process.wait(timeout=300) == 2
    log = (tmp_path / "log").read_text()
    assert "File too large" in log
    assert "Traceback" not in log
    assert not list((tmp_path / "run").rglob(".*"))  # no half written file
    assert start_training("--resume").wait(timeout=240) in (0, 1), (tmp_path / "log").read_text()


@pytest.mark.slow
def test_training_killed_at_random_five_times_loses_no_more_than_an_epoch_and_ends_alike(
    start_training: Start, idx_folder: Path, tmp_path: Path
) -> None:
    log, run = tmp_path / "log", RunFolder(tmp_path / "run")
    assert start_training().wait(timeout=240) in (0, 1), log.read_text()
    whole = RunFolder(run.path.rename(tmp_path / "whole"))
    seconds = [line["seconds"] for line in read_metrics(whole)]
    seed = random.SystemRandom().randrange(2**32)
    moments = sorted(random.Random(seed).sample(range(100 * len(seconds)), 5))
    print(f"seed {seed}: killed after so many hundredths of an epoch: {moments}")

    process, done = start_training(), 0
    for moment in moments:
        epoch, part = divmod(moment, 100)
        wait_for(lambda wanted=epoch: " epochs\n" in log.read_text() and len(read_metrics(run)) >= wanted)  # type: ignore[misc]
        time.sleep(seconds[epoch] * part / 100)
        assert process.poll() is None, "ended before it could be killed"
        process.kill()
        process.wait()
        assert first_epoch(log.read_text()) >= done - 1
        done = len(read_metrics(run))
        process = start_training("--resume")
    assert process.wait(timeout=240) in (0, 1), log.read_text()
    assert first_epoch(log.read_text()) >= done - 1
    assert [line["epoch"] for line in read_metrics(run)] == [line["epoch"] for line in read_metrics(whole)]
    for name in whole.stages:
        expected, found = (load_file(folder.weights_path(name)) for folder in (whole, run))
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=TOLERANCE)
    for stage in whole.stages:
        curves = points(run, stage)
        assert curves.keys() == points(whole, stage).keys()
        for tag, curve in points(whole, stage).items():
            assert [epoch for epoch, _ in curves[tag]] == [epoch for epoch, _ in curve]
            assert [value for _, value in curves[tag]] == pytest.approx(
                [value for _, value in curve], rel=0, abs=TOLERANCE
            )


def first_epoch(log: str) -> int:
    """Of the first epoch that a log tells to have ended: how many epochs of the whole training lie before it."""
    found = re.search(r"^(.+): epoch (\d)/", log, re.MULTILINE)
    stages = list(EPOCHS)
    if found is None or found[1] not in stages:  # killed within an epoch, or nothing was left but the evaluation
        return sum(EPOCHS.values())
    return sum(EPOCHS[stage] for stage in stages[: stages.index(found[1])]) + int(found[2]) - 1
