import json
import shutil
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from helpers.small_data import RECIPE
from purify_edge.shell.command import Command
from purify_toolkit.evaluate.cli import main as evaluate
from purify_toolkit.evaluate.threats import BARELY
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.history import read_metrics
from purify_toolkit.runs.pretrained import open_run
from purify_toolkit.train.cli import main as train

REPOSITORY = Path(__file__).parents[2]


def test_a_training_from_the_command_line(small_data: Path, recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = [str(recipe_file), "--data", str(small_data), "--out", str(out), "--limit", "100", "--seed", "3"]
    done = CliRunner().invoke(train, [*arguments, "--json"])
    assert done.exit_code in (0, 1), done.stderr  # so small a training may end in harm
    rows = json.loads(done.stdout)
    assert [row["threat"] for row in rows] == ["clean", "clean", "grey-box", "grey-box", "white-box"]
    assert "student: epoch 3/3" in done.stderr
    assert "imitation" in done.stderr
    assert f"run folder: {out}" in done.stderr
    again = CliRunner().invoke(train, arguments)
    assert again.exit_code == 2
    assert f"{out} exists; --resume goes on with it, --force replaces it" in again.stderr
    assert RunFolder(out).info["seed"] == 3
    table = CliRunner().invoke(train, [*arguments, "--resume"])
    attack = next(row["attack"] for row in rows if row["threat"] == "white-box")
    assert any("white-box" in line and attack in line for line in table.stdout.splitlines()), table.stdout


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """The shipped pair, for small data."""
    run = Path(shutil.copytree(open_run(None).path, tmp_path / "pair"))
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("validation_size = 5000", "validation_size = 100"))
    return run


def test_photos_of_several_sizes_are_resized_by_an_option(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for index in range(20):
                image = Image.new("RGB", (16 + index, 24), (255 * label, 8 * index, 90))
                image.save(tmp_path / "photos" / split / name / f"{index}.png")
    recipe, out = tmp_path / "mine.toml", tmp_path / "run"
    recipe.write_text(RECIPE.replace('"fashion-mnist"', '"image-folder"\nimage_size = [8, 8]'))
    arguments = [str(recipe), "--data", str(tmp_path / "photos"), "--out", str(out), "--size"]
    refused = CliRunner().invoke(train, [*arguments, "16"])
    assert refused.exit_code == 2
    assert "expected HEIGHTxWIDTH, each from 1 to 4096, like 64x64, got '16'" in refused.stderr
    done = CliRunner().invoke(train, [*arguments, "16x20"])
    assert done.exit_code in (0, 1), done.stderr  # so small a training may end in harm
    assert RunFolder(out).info["image_shape"] == [3, 16, 20]
    assert RunFolder(out).info["images"] == {"train": 32, "validation": 8, "test": 40}
    assert RunFolder(out).recipe.image_size == (16, 20)


def test_a_recipe_in_bfloat16_says_where_it_will_be_float32(
    small_data: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "half.toml"
    recipe.write_text(f'precision = "bfloat16"\n{recipe_file.read_text()}')
    monkeypatch.setattr("purify_toolkit.device.precision.has_bfloat16", lambda device: False)
    arguments = ["--data", str(small_data), "--out", str(tmp_path / "run"), "--limit", "100"]
    done = CliRunner().invoke(train, [str(recipe), *arguments])
    assert done.exit_code in (0, 1), done.stderr  # so small a training may end in harm
    assert "this processor has no bfloat16, which the recipe asks for: training in float32\n" in done.stderr
    assert {line["precision"] for line in read_metrics(RunFolder(tmp_path / "run"))} == {"float32"}


def test_an_evaluation_from_the_command_line(small_data: Path, shipped: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    arguments = [str(shipped), "--data", str(small_data), "--limit", "40", "--curve-limit", "10", "--out", str(out)]
    done = CliRunner().invoke(evaluate, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    content = json.loads(done.stdout)
    assert content == json.loads((out / "evaluation.json").read_text())
    assert content["passed"]
    assert {row["threat"] for row in content["rows"]} == {"clean", "noise", "grey-box", "white-box", "bpda"}
    assert {row["n"] for row in content["rows"]} == {40}
    assert "evaluation: attack 5/23  grey-box:pgd" in done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["curves.png", "evaluation.json", "grid.png", "rows"]
    refused = CliRunner().invoke(evaluate, arguments)
    assert refused.exit_code == 2
    assert f"{out} holds an evaluation; --resume goes on with it, --force measures again" in refused.stderr
    table = CliRunner().invoke(evaluate, [*arguments, "--resume"])
    assert table.exit_code == 0
    assert "evaluation: attack 5/23  grey-box:pgd, measured before" in table.stderr
    assert table.stdout.index("Worst case of each threat") < table.stdout.index("Every attack")
    tax = content["tax"]
    assert f"The purifier costs {tax['points']:.2f} points on 40 clean images" in table.stdout
    assert "not checked" in table.stdout


def test_an_evaluation_judges_the_rule_that_spares_clean_images(small_data: Path, shipped: Path) -> None:
    arguments = [str(shipped), "--data", str(small_data), "--limit", "40", "--curve-limit", "0", "--force"]
    done = CliRunner().invoke(evaluate, [*arguments, "--attacks", "clean", "--spare-clean"])
    assert done.exit_code == 0, done.stderr
    content = json.loads((shipped / "evaluation" / "evaluation.json").read_text())
    assert content["spare"]["n"] == 100
    assert [row["name"] for row in content["spared"]["rows"]] == ["clean:none", BARELY]
    assert "with --spare-clean" in done.stdout


def test_an_evaluation_that_cannot_be_trusted_ends_with_1(small_data: Path, shipped: Path) -> None:
    text = (shipped / "recipe.toml").read_text()
    weak = text.replace("steps = 20", "steps = 1").replace("relative_step = 0.125", "relative_step = 0.01")
    (shipped / "recipe.toml").write_text(weak)
    arguments = [str(shipped), "--data", str(small_data), "--limit", "60", "--attacks", "grey-box:pgd"]
    done = CliRunner().invoke(evaluate, [*arguments, "--curve-limit", "0", "--force"])
    assert done.exit_code == 1, done.stderr
    assert "FAILED" in done.stdout
    content = json.loads((shipped / "evaluation" / "evaluation.json").read_text())
    assert content["passed"] is False
    assert "the attack is too weak" in content["gates"][0]["explanation"]


@pytest.mark.parametrize(
    ("command", "arguments", "code", "message"),
    [
        (train, (), 2, "Missing argument 'RECIPE'"),
        (train, ("fashion",), 2, "did you mean 'fashion-mnist'?"),
        (train, ("fashion-mnist", "--data", "tests", "--out", "absent"), 2, "tests does not hold Fashion-MNIST"),
        (train, ("fashion-mnist", "--device", "abacus"), 2, "no device 'abacus'"),
        (train, ("fashion-mnist", "--device", "cuda:77"), 3, "device 'cuda:77' cannot be used here"),
        (train, ("fashion-mnist", "--seed", str(2**63)), 2, "is not in the range"),
        (train, ("image-folder", "--start", "photo"), 2, "no run 'photo' (did you mean 'photos'?): expected"),
        (train, ("image-folder", "--start", "tests"), 2, "tests is not a run folder"),
        (train, ("fashion-mnist", "--limit", "0"), 2, "0 is not in the range x>=1"),
        (train, ("fashion-mnist", "--out", "README.md"), 2, "README.md exists"),
        (evaluate, ("absent",), 2, "no run 'absent'"),
        (evaluate, ("tests",), 2, "tests is not a run folder"),
        (evaluate, ("--attacks", "autoatack"), 2, "no attack 'autoatack' (did you mean 'autoattack'?)"),
        (evaluate, ("--l2-epsilon", "0"), 2, "is not in the range"),
        (evaluate, ("--resume", "--force"), 2, "--force replaces it: give one of the two"),
        (train, ("fashion-mnist", "--resume", "--force"), 2, "--force replaces it: give one of the two"),
    ],
)
def test_bad_input_ends_with_one_message(
    command: click.Command, arguments: tuple[str, ...], code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == code
    assert message in done.stderr
    assert done.stdout == ""
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_out_of_memory_is_no_defect() -> None:
    @click.command(cls=Command)
    def greedy() -> None:
        torch.empty(2**50)

    done = CliRunner().invoke(greedy, [])
    assert done.exit_code == 3
    assert "out of memory; smaller images, networks or batches" in done.stderr
