import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from purify_toolkit.cli.command import Command
from purify_toolkit.cli.evaluate import main as evaluate
from purify_toolkit.cli.train import main as train
from purify_toolkit.run_folder import RunFolder

Run = Callable[..., tuple[int, str, str]]


def test_a_training_from_the_command_line(small_data: Path, recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = [str(recipe_file), "--data", str(small_data), "--out", str(out), "--limit", "100", "--seed", "3"]
    done = CliRunner().invoke(train, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["threat"] for row in rows] == ["clean", "clean", "grey-box", "grey-box", "white-box"]
    assert "student: epoch 3/3" in done.stderr
    assert "imitation" in done.stderr
    assert f"run folder: {out}" in done.stderr
    again = CliRunner().invoke(train, arguments)
    assert again.exit_code == 2
    assert f"{out} exists; --resume goes on with it" in again.stderr
    assert RunFolder(out).info["seed"] == 3


def test_an_evaluation_from_the_command_line(trained: RunFolder, small_data: Path) -> None:
    arguments = [str(trained.path), "--data", str(small_data)]
    done = CliRunner().invoke(evaluate, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    published = json.loads((trained.path / "metrics.json").read_text())["rows"]
    assert json.loads(done.stdout) == published
    table = CliRunner().invoke(evaluate, [*arguments, "--limit", "20"])
    assert table.exit_code == 0
    assert "white-box" in table.stdout
    assert " 20 " in table.stdout


@pytest.mark.parametrize(
    ("command", "arguments", "code", "message"),
    [
        ("purify-train", (), 2, "Missing argument 'RECIPE'"),
        ("purify-train", ("fashion",), 2, "did you mean 'fashion-mnist'?"),
        ("purify-train", ("fashion-mnist", "--data", "tests"), 2, "tests does not hold Fashion-MNIST"),
        ("purify-train", ("fashion-mnist", "--device", "abacus"), 2, "no device 'abacus'"),
        ("purify-train", ("fashion-mnist", "--device", "cuda:77"), 3, "device 'cuda:77' cannot be used here"),
        ("purify-train", ("fashion-mnist", "--seed", str(2**63)), 2, "is not in the range"),
        ("purify-train", ("fashion-mnist", "--limit", "0"), 2, "0 is not in the range x>=1"),
        ("purify-train", ("fashion-mnist", "--out", "README.md"), 2, "README.md exists"),
        ("purify-eval", ("absent",), 2, "no run 'absent'"),
        ("purify-eval", ("tests",), 2, "tests is not a run folder"),
    ],
)
def test_bad_input_ends_with_one_message(
    run: Run, command: str, arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, out, err = run(command, *arguments)
    assert found == code
    assert message in err
    assert out == ""
    assert "Traceback" not in err


def test_out_of_memory_is_no_defect() -> None:
    @click.command(cls=Command)
    def greedy() -> None:
        torch.empty(2**50)

    done = CliRunner().invoke(greedy, [])
    assert done.exit_code == 3
    assert "out of memory; smaller images, networks or batches" in done.stderr
