"""The study of teachers without the classifier, over two seeds of the small data."""

import json
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from torch import nn

from helpers.small_data import RECIPE
from lab.frontier import __main__ as frontier
from lab.frontier.arms import ARMS
from lab.frontier.judged import THREATS
from lab.frontier.results import AGAINST, JUDGED, NEAR
from purify_edge.errors import InputError
from purify_toolkit.data.splits import Split, batches
from purify_toolkit.networks.answers import right
from purify_toolkit.runs.data import load_data
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.history import read_metrics

pytestmark = pytest.mark.slow

ASKED = "features,none,led,split-bottleneck"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def arguments(accepted: Path, trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    recipe = tmp_path_factory.mktemp("recipe") / "small.toml"
    recipe.write_text(RECIPE.replace("batch_size = 64\nlearning_rate = 3e-3", "batch_size = 16\nlearning_rate = 1e-2"))
    short = ["--limit", "96", "--epochs-teacher", "1", "--epochs-student", "2", "--widths", "4", "--seeds", "0,1"]
    return [str(recipe), "--data", str(accepted), "--base", str(trained.path), *short, "--arms", ASKED]


@pytest.fixture(scope="module")
def study(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study; not to be changed."""
    out = tmp_path_factory.mktemp("study") / "frontier"
    frontier.main([*arguments, "--out", str(out)])
    return out


def test_only_guided_students_ask_the_classifier_and_each_imitates_what_its_arm_says(study: Path) -> None:
    for name in ASKED.split(","):
        for number, keys in enumerate(ARMS[name].settings):
            run = RunFolder(study / "seed-0/w4" / name / str(number))
            written = run.recipe.distillation
            assert {key: getattr(written, key) for key in keys} == keys
            losses = {loss for line in read_metrics(run) for loss in line["losses"]}
            expected = {"features": {"reconstruction", "guidance", "features"}, "none": {"reconstruction"}}
            assert losses == expected.get(name, {"imitation"})
            assert run.load_student().head.in_channels == 4


def test_teachers_are_those_of_the_seed(study: Path) -> None:
    teachers = study / "seed-1" / "teachers"
    run = RunFolder(study / "seed-1/w4/split-bottleneck/3")
    assert run.recipe.purifier("normal_teacher").bottleneck == 2
    assert run.recipe.purifier("adversarial_teacher").bottleneck == 0
    for folder, name in (("led", "adversarial_teacher"), ("bottleneck", "normal_teacher")):
        theirs = RunFolder(teachers / folder).load_teacher(name).state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in run.load_teacher(name).state_dict().items())
    led = {name for line in read_metrics(RunFolder(teachers / "led")) for name in line["losses"]}
    assert led == {"reconstruction", "guidance"}


def test_figures_are_of_the_students_on_the_same_images(study: Path, trained: RunFolder, accepted: Path) -> None:
    results = json.loads((study / "frontier.json").read_text())
    rows = {(row["seed"], row["width"], row["arm"], row["setting"]): row for row in results["rows"]}
    assert len(rows) == 2 * sum(len(ARMS[name].settings) for name in ASKED.split(","))
    attacked = torch.from_numpy(np.load(study / "attacked.npy"))
    run = RunFolder(study / "seed-1/w4/led/2")
    labels = load_data(run.recipe, accepted).limited(96).test.labels
    pipeline = nn.Sequential(run.load_student(), trained.load_classifier())
    with np.load(run.path / JUDGED) as arrays:
        for threat in THREATS:
            assert rows[1, 4, "led", 2][threat] == pytest.approx(100 * arrays[threat].mean())
        again = [right(pipeline, images, of) for images, of in batches(Split(attacked, labels), CPU)]
        assert np.array_equal(np.concatenate(again), arrays["grey-box"])


def test_settings_are_compared_with_those_of_near_clean_accuracy(study: Path) -> None:
    results = json.loads((study / "frontier.json").read_text())
    of = {}
    for row in results["rows"]:
        of.setdefault((row["width"], row["arm"], row["setting"]), []).append(row)
    assert results["pairs"]
    for pair in results["pairs"]:
        mine = of[pair["width"], pair["arm"], pair["setting"]]
        other = of[pair["width"], pair["against"], pair["against_setting"]]
        for threat in THREATS:
            expected = [a[threat] - b[threat] for a, b in zip(mine, other, strict=True)]
            assert pair["points"][threat] == pytest.approx(expected)
        assert abs(mean(pair["points"]["clean"])) <= NEAR
        assert pair["against"] in AGAINST and pair["against"] != pair["arm"]


def test_the_same_command_goes_on(study: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    weights = study / "seed-0/w4/led/0/student.safetensors"
    before = weights.stat().st_mtime_ns
    frontier.main([*arguments, "--out", str(study)])
    assert weights.stat().st_mtime_ns == before
    table = capsys.readouterr().out
    assert "| 4 | adversarial, with the original | share of A 0.85 | 2 |" in table
    assert (study / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_arm_is_named(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no arm 'both'; expected of guided, features, none"):
        frontier.main([*arguments, "--arms", "both", "--out", str(tmp_path / "out")])
