import csv
import hashlib
import json
import re
import sys
from pathlib import Path

import pytest

from purify_edge.errors import InputError, MissingError
from purify_export.networks import flop_of
from purify_toolkit.recipe import find_recipe, parse_recipe
from purify_toolkit.runs import pretrained
from purify_toolkit.runs.pretrained import FOLDER, open_purifier, open_run, pretrained_names

CHECKOUT = Path(__file__).parents[2]
COMMIT = "[0-9a-f]{40}"  # a checkout with changes ends in `-dirty`


def test_fashion_mnist_is_the_default_beside_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_run("fashion-mnist").path == FOLDER / "fashion-mnist"
    (tmp_path / "fashion-mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_run(None).path == FOLDER / "fashion-mnist"


def test_an_unknown_run_names_what_ships() -> None:
    with pytest.raises(InputError, match=r"no run 'absent'.*fashion-mnist"):
        open_run("absent")


def test_where_pairs_are_missing_it_is_told_what_brings_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "purify_pairs")
    for name in (None, "cifar10"):
        with pytest.raises(MissingError, match=r"needs 'train': pip install 'purify-edge\[train\]'"):
            open_run(name)
    assert open_run(str(tmp_path)).path == tmp_path  # a run of one's own needs none


def test_an_installed_copy_is_found_where_there_is_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "purify_pairs" / "a").mkdir(parents=True)
    (tmp_path / "purify_pairs" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "purify_pairs", raising=False)
    monkeypatch.setattr(pretrained, "__file__", str(tmp_path / "site" / "purify_toolkit" / "runs" / "pretrained.py"))
    assert pretrained.pairs_folder() == tmp_path / "purify_pairs"


def test_two_pairs_share_a_classifier() -> None:
    shared = open_run("cifar10").weights_path("classifier")
    assert open_run("cifar10-adaptive").weights_path("classifier") == shared
    assert open_run("cifar10-adaptive").has("classifier")
    assert open_run("cifar10-adaptive").weights_path("student").parent.name == "cifar10-adaptive"
    assert open_run("fashion-mnist-adaptive").weights_path("classifier").parent.name == "fashion-mnist-adaptive"


@pytest.mark.parametrize("name", pretrained_names())
def test_what_ships_is_what_was_evaluated(name: str) -> None:
    """The metrics were made with these very weights, this recipe, and at commits without local changes."""
    run = open_run(name)
    metrics = json.loads((run.path / "metrics.json").read_text())
    for network, digest in metrics["weights_sha256"].items():
        assert hashlib.sha256(run.weights_path(network).read_bytes()).hexdigest() == digest
    recipe = (run.path / "recipe.toml").read_bytes()
    assert hashlib.sha256(recipe).hexdigest() == metrics["recipe_sha256"] == run.info["recipe_sha256"]
    assert metrics["commit"] == run.info["commit"]
    for session in (run.info, *run.info.get("resumed_with", []), metrics["evaluated_with"]):
        assert re.fullmatch(COMMIT, session["commit"])
    assert metrics["limit"] is None
    assert recipe == find_recipe(name).read_bytes()
    assert run.info["recipe"] == metrics["recipe"] == name


def test_what_a_training_begins_from_is_what_ships_beside_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()  # the user's pictures
    monkeypatch.chdir(tmp_path)
    assert open_purifier("photos").path == FOLDER / "photos"
    assert open_purifier(str(tmp_path / "photos")).path == tmp_path / "photos"


@pytest.mark.parametrize(("name", "width"), [("photos", 12), ("photos-small", 6)])
def test_purifiers_for_photographs_ship_for_trainings_to_begin_from(name: str, width: int) -> None:
    with pytest.raises(InputError, match=f"{name} is a purifier without a classifier"):
        open_run(name)
    run = open_purifier(name)
    metrics, weights = json.loads((run.path / "metrics.json").read_text()), run.weights_path("student")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == metrics["weights_sha256"]["student"]
    assert weights.stat().st_size < 4_000_000
    assert all(re.fullmatch(COMMIT, session["commit"]) for session in (run.info, metrics["evaluated_with"]))
    recipe = (run.path / "recipe.toml").read_bytes()
    assert hashlib.sha256(recipe).hexdigest() == metrics["recipe_sha256"] == run.info["recipe_sha256"]
    assert not re.search(rb'"(/|~)', recipe), "a path of somebody's machine"
    assert run.recipe.student.network == {"width": width, "depth": 2, "blocks": 1, "bottleneck": 0}
    with (CHECKOUT / "lab" / "photographs" / "photographs.csv").open(newline="") as file:
        packages = {row["package"] for row in csv.DictReader(file)}
    assert all(package in (run.path / "NOTICE").read_text() for package in packages)


@pytest.mark.parametrize("recipe", ["image-folder", "photos"])
def test_trainings_on_photographs_begin_from_the_larger_one(recipe: str) -> None:
    student = parse_recipe(find_recipe(recipe).read_text(), source=recipe).student
    assert student.start == "photos"
    assert student.network == open_purifier("photos").recipe.student.network


def test_samples_and_pictures_ship_with_their_notice() -> None:
    run = open_run("fashion-mnist")
    assert run.load_samples().images.shape == (1000, 1, 28, 28)
    assert "Copyright (c) 2017 Zalando SE" in (run.path / "NOTICE").read_text()
    names = {path.stem.rpartition("-")[::2] for path in (run.path / "images").glob("*.png")}
    assert len(names) == 20
    assert {kind for _, kind in names} == {"clean", "adversarial"}
    assert len({name for name, _ in names}) == 10


REACHED = {
    "fashion-mnist": {"clean": 0.91, "grey-box": 0.89, "white-box": 0.0},
    "fashion-mnist-adaptive": {"clean": 0.85, "grey-box": 0.83, "white-box": 0.70},
    "fashion-mnist-tiny": {"clean": 0.91, "grey-box": 0.88},
    "cifar10": {"clean": 0.88, "grey-box": 0.78},
    "cifar10-adaptive": {"clean": 0.50, "grey-box": 0.50, "white-box": 0.28},
}


@pytest.mark.parametrize("name", REACHED)
def test_the_pairs_are_as_good_as_the_best_so_far(name: str) -> None:
    rows = open_run(name).provenance()["metrics"]["rows"]
    accuracy = {row["threat"]: row["accuracy"] for row in rows if row["defended"]}
    assert all(row["n"] == (10_000 if name.startswith("fashion") else 5_000) for row in rows)
    for threat, least in REACHED[name].items():
        assert accuracy[threat] >= least


def test_the_tiny_pair_has_a_quarter_of_the_operations_before_the_same_classifier() -> None:
    tiny, other = open_run("fashion-mnist-tiny"), open_run("fashion-mnist")
    assert tiny.weights_path("classifier") == other.weights_path("classifier")
    flop = [flop_of(run.load_student(), (1, 28, 28)) for run in (tiny, other)]
    assert flop[0] / flop[1] < 0.26


def test_all_that_ships_of_cifar10_fits_its_bounds() -> None:
    folders = [open_run(name).path for name in pretrained_names() if name.startswith("cifar10")]
    assert sum(path.stat().st_size for folder in folders for path in folder.rglob("*")) < 12_000_000
    assert sum(value.numel() for value in open_run("cifar10").load_student().parameters()) <= 1_000_000
