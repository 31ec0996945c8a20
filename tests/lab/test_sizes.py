"""The study of sizes, on two purifiers of the small run's classifier."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.small_data import RECIPE
from lab.frontier import sizes
from purify_edge.errors import InputError
from purify_toolkit.data.splits import batches
from purify_toolkit.networks.answers import count_correct
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.folder import RunFolder

pytestmark = pytest.mark.slow

N = 60


@pytest.fixture(scope="module")
def narrow(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The small run with a narrower student, untrained."""
    run = RunFolder(Path(shutil.copytree(trained.path, tmp_path_factory.mktemp("runs") / "narrow")))
    head, student = RECIPE.split("[student]")
    (run.path / "recipe.toml").write_text(f"{head}[student]{student.replace('width = 4', 'width = 2', 1)}")
    torch.manual_seed(0)
    run.save_weights("student", run.new_purifier(run.recipe.student))
    return run


@pytest.fixture(scope="module")
def found(trained: RunFolder, narrow: RunFolder, accepted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the study; not to be changed."""
    out = tmp_path_factory.mktemp("sizes")
    runs = [str(trained.path), str(narrow.path)]
    sizes.main([*runs, "--data", str(accepted), "--out", str(out), "--limit", str(N), "--rounds", "3"])
    return out


def test_each_network_has_its_cost_and_its_accuracies(
    found: Path, trained: RunFolder, narrow: RunFolder, accepted: Path
) -> None:
    results = json.loads((found / "sizes.json").read_text())
    alone, wide, small = results["rows"]
    assert alone["time"] == 1
    assert alone["name"] == "classifier alone"
    assert wide["name"] == "small: width 4, depth 2, blocks 1"
    assert small["name"] == "small: width 2, depth 2, blocks 1"
    assert small["flop"] < wide["flop"]
    assert small["parameters"] == sum(weights.numel() for weights in narrow.load_student().parameters())
    first = narrow.load_student().stem[0]
    assert small["flop"] > 2 * first.weight.numel() * 28 * 28
    test = load_data_of(trained, accepted, device="cpu").test[:N]
    classifier = trained.load_classifier()
    for row, network in ((alone, nn.Identity()), (wide, trained.load_student()), (small, narrow.load_student())):
        pipeline = nn.Sequential(network, classifier)
        expected = sum(count_correct(pipeline, *batch) for batch in batches(test, torch.device("cpu")))
        assert (row["clean"]["correct"], row["clean"]["n"]) == (expected, N)
        assert row["grey-box"]["n"] == N
    assert alone["grey-box"]["correct"] < alone["clean"]["correct"]


def test_the_table_and_the_plot_are_there(found: Path) -> None:
    lines = (found / "sizes.md").read_text().splitlines()
    assert lines[0].startswith("| network | epochs | parameters, thousands | MFLOP | time, x classifier | clean | grey")
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| classifier alone",
        "| small: width 4, depth 2, blocks 1",
        "| small: width 2, depth 2, blocks 1",
    ]
    assert (found / "sizes.png").read_bytes().startswith(b"\x89PNG")


def test_purifiers_for_different_classifiers_are_not_compared(
    trained: RunFolder, narrow: RunFolder, accepted: Path, tmp_path: Path
) -> None:
    other = RunFolder(Path(shutil.copytree(narrow.path, tmp_path / "other")))
    torch.manual_seed(0)
    other.save_weights("classifier", other.new_classifier())
    with pytest.raises(InputError, match="two of the runs have one recipe and one size"):
        sizes.main([*2 * [str(trained.path)], "--data", str(accepted), "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match="the runs have different classifiers"):
        sizes.main([str(trained.path), str(other.path), "--data", str(accepted), "--out", str(tmp_path / "out")])
