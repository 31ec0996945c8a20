import json
import runpy
import shutil
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import binomtest
from torch import nn

from helpers.modified import modified
from helpers.small_data import RECIPE
from lab.studies import ablation
from lab.studies.ablation_table import ALONE, JUDGED, THREATS
from lab.studies.common import GOES_ON, INTERRUPTED, changed, guarded
from purify_edge.errors import InputError
from purify_toolkit.attacks.gradient import PGD
from purify_toolkit.data.splits import batches
from purify_toolkit.recipe import parse_recipe
from purify_toolkit.runs.data import load_data
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.history import read_metrics

pytestmark = pytest.mark.slow

STUDIES = Path(ablation.__file__).parent
SEEDS = (0, 1)
SHORT = ["--limit", "192", "--epochs-teacher", "1", "--epochs-student", "2", "--batch-size", "48"]
QUICK = RECIPE.replace("batch_size = 64\nlearning_rate = 3e-3", "batch_size = 16\nlearning_rate = 1e-2")
NETWORKS = {
    "plain": {"classifier", "student"},
    "adversarial-teacher": {"classifier", "adversarial_teacher", "student"},
    "normal-teacher": {"classifier", "normal_teacher", "student"},
    "both": {"classifier", "adversarial_teacher", "normal_teacher", "student"},
}
DISTILLATION = {
    "plain": (0.0, 0.5),
    "adversarial-teacher": (1.0, 1.0),
    "normal-teacher": (1.0, 0.0),
    "both": (1.0, 0.5),
}


@pytest.fixture(scope="module")
def recipe_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(QUICK)
    return path


@pytest.fixture(scope="module")
def arguments(accepted: Path, trained: RunFolder, recipe_path: Path) -> list[str]:
    return [str(recipe_path), "--data", str(accepted), "--base", str(trained.path), *SHORT]


@pytest.fixture(scope="module")
def study(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ablation over two seeds; not to be changed."""
    out = tmp_path_factory.mktemp("study") / "ablation"
    ablation.main([*arguments, "--seeds", "0,1", "--out", str(out)])
    return out


def arm(study: Path, name: str, seed: int = 0) -> RunFolder:
    return RunFolder(study / f"seed-{seed}" / name)


def right(study: Path, name: str, seed: int, threat: str) -> np.ndarray:
    """Which test images an arm has right, from the run's own file."""
    with np.load(arm(study, name, seed).path / JUDGED) as arrays:
        return arrays[threat]


def figures(study: Path, name: str, threat: str) -> list[float]:
    """Accuracies in percent, seed by seed."""
    return [100 * float(right(study, name, seed, threat).mean()) for seed in SEEDS]


def test_arms_train_the_networks_that_their_name_says(study: Path) -> None:
    for seed in SEEDS:
        for name, networks in NETWORKS.items():
            run = arm(study, name, seed)
            assert {path.stem for path in run.path.glob("*.safetensors")} == networks
            weights = run.recipe.distillation
            assert (weights.imitation, weights.adversarial_teacher_weight) == DISTILLATION[name]
            assert {line["stage"] for line in read_metrics(run)} == {"student"}
            assert all(line["validation"] == {} for line in read_metrics(run))


def test_arms_differ_in_nothing_else(study: Path) -> None:
    recipe = arm(study, "both").recipe
    shortened = parse_recipe(QUICK.replace("epochs = 2\n", "epochs = 1\n", 1), source="test")
    assert (recipe.student.epochs, recipe.student.batch_size) == (2, 48)
    assert recipe.teacher == msgspec.structs.replace(shortened.teacher, batch_size=48)
    for name in NETWORKS:
        other = arm(study, name).recipe
        assert [getattr(other, table) for table in ("classifier", "teacher", "student", "attack", "evaluation")] == [
            getattr(recipe, table) for table in ("classifier", "teacher", "student", "attack", "evaluation")
        ]
        assert arm(study, name).info["seed"] == 0
        assert arm(study, name, 1).info["seed"] == 1


def test_arms_of_a_seed_share_classifier_and_teachers(study: Path, trained: RunFolder) -> None:
    for seed in SEEDS:
        teachers = arm(study, "teachers", seed)
        assert not teachers.has("student")
        for name, networks in NETWORKS.items():
            for network in networks - {"student"}:
                shared = trained if network == "classifier" else teachers
                assert arm(study, name, seed).weights_path(network).read_bytes() == (
                    shared.weights_path(network).read_bytes()
                )
    of_seeds = [arm(study, "teachers", seed).weights_path("adversarial_teacher").read_bytes() for seed in SEEDS]
    students = [arm(study, name).weights_path("student").read_bytes() for name in NETWORKS]
    assert len(set(of_seeds)) == len(SEEDS)
    assert len(set(students)) == len(students)


def test_students_begin_with_their_seeds_adversarial_examples(
    study: Path, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {}
    train_stage = ablation.train_stage

    def looking(name: str, run: RunFolder, *data: Any, **options: Any) -> None:
        if name == "student":
            found[run.path.name] = run.load_examples()
        train_stage(name, run, *data, **options)

    monkeypatch.setattr(ablation, "train_stage", looking)
    out = tmp_path / "again"
    shutil.copytree(study / "seed-0" / "teachers", out / "seed-0" / "teachers")
    ablation.main([*arguments, "--seeds", "0", "--arms", "plain,both", "--out", str(out)])
    earlier = arm(out, "teachers").load_examples()
    assert earlier is not None
    kept, versions = earlier["examples"], earlier["versions"]
    assert versions.min() > 0
    clean = load_data(arm(out, "both").recipe, Path(arguments[2])).limited(192).train.images
    assert 0 < int((kept.int() - clean.int()).abs().max()) <= round(0.13 * 255) + 1
    assert set(found) == {"plain", "both"}
    for examples in found.values():
        assert torch.equal(examples["examples"], kept)
        assert torch.equal(examples["versions"], versions)
    assert arm(out, "both").weights_path("student").read_bytes() == (
        arm(study, "both").weights_path("student").read_bytes()
    )


def test_the_summary_is_that_of_the_runs(study: Path) -> None:
    results = json.loads((study / "ablation.json").read_text())
    assert (results["n"], results["limit"]) == (192, 192)
    assert results["epochs"] == {"teacher": 1, "student": 2}
    assert results["batch_size"] == 48
    assert "students 2, batches of 48; n = 192 test images a seed;" in (study / "ablation.md").read_text()
    assert [(run["arm"], run["seed"]) for run in results["runs"]] == [
        (name, seed) for name in (*NETWORKS, ALONE) for seed in SEEDS
    ]
    for name in (*NETWORKS, ALONE):
        for threat in THREATS:
            values, found = figures(study, name, threat), results["summary"][name][threat]
            assert found["mean"] == pytest.approx(mean(values))
            assert found["sd"] == pytest.approx(stdev(values))
    first = results["runs"][0]["grey-box"]
    assert (first["correct"], first["n"]) == (right(study, "plain", 0, "grey-box").sum(), 192)


def test_both_teachers_are_compared_with_every_other_arm_image_by_image(study: Path) -> None:
    results = json.loads((study / "ablation.json").read_text())["both_against"]
    assert set(results) == set(NETWORKS) - {"both"}
    for name, pairs in results.items():
        for seed, pair in zip(SEEDS, pairs, strict=True):
            assert pair["seed"] == seed
            for threat in ("clean", "grey-box"):
                expected = figures(study, "both", threat)[seed] - figures(study, name, threat)[seed]
                assert pair["points"][threat] == pytest.approx(expected)
                both, other = (right(study, of, seed, threat) for of in ("both", name))
                wins, losses = int((both & ~other).sum()), int((other & ~both).sum())
                p = binomtest(wins, wins + losses, 0.5).pvalue if wins + losses else 1.0
                assert pair["mcnemar_p"][threat] == pytest.approx(p)


def test_what_is_judged_is_the_arms_own_pipeline_on_test_images(study: Path, accepted: Path) -> None:
    """All 192 are one batch, and attacked as the recipe says with the seed's generator."""
    first = arm(study, "both", 1)
    test = load_data(first.recipe, accepted).limited(192).test
    classifier = first.load_classifier()
    ((images, labels),) = batches(test, torch.device("cpu"))
    attacked = PGD.of(first.recipe.evaluation)(
        classifier, images, labels, generator=torch.Generator(torch.device("cpu")).manual_seed(1)
    )
    purifiers = {name: arm(study, name, 1).load_student() for name in NETWORKS} | {ALONE: nn.Identity()}
    for threat, seen in (("clean", images), ("grey-box", attacked)):
        for name, purifier in purifiers.items():
            with torch.no_grad():
                expected = classifier(purifier(seen)).argmax(1) == labels
            assert (right(study, name, 1, threat) == expected.numpy()).all()
    assert right(study, ALONE, 1, "clean").sum() > right(study, ALONE, 1, "grey-box").sum()


def test_a_finished_study_trains_nothing_and_an_interrupted_one_goes_on(
    study: Path, arguments: list[str], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(study, tmp_path / "again"))
    before = modified(out)
    again = [*arguments, "--seeds", "0,1", "--out", str(out)]
    ablation.main(again)
    assert modified(out) == before
    lost = arm(out, "normal-teacher", 1)
    for name in (JUDGED, "student.safetensors"):
        (lost.path / name).unlink()
    ablation.main(again)
    assert {path for path, when in modified(out).items() if before.get(path) != when} == {
        lost.path / name for name in ("student.safetensors", JUDGED)
    }
    assert load_file(lost.weights_path("student")).keys()
    for name in ("student.safetensors", JUDGED):
        assert (lost.path / name).read_bytes() == (arm(study, "normal-teacher", 1).path / name).read_bytes()


def test_an_arm_without_guidance_trains_its_own_teacher(study: Path, arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "more"
    shutil.copytree(study / "seed-0" / "teachers", out / "seed-0" / "teachers")
    ablation.main([*arguments, "--seeds", "0", "--arms", "no-guidance,no-reconstruction", "--out", str(out)])
    teachers, without = arm(out, "teachers"), arm(out, "no-guidance")
    adversarial, normal = (
        [run.weights_path(name).read_bytes() for run in (teachers, without)]
        for name in ("adversarial_teacher", "normal_teacher")
    )
    assert adversarial[0] != adversarial[1]
    assert normal[0] == normal[1]
    assert without.recipe.distillation.classifier_guidance == 0
    assert arm(out, "no-reconstruction").recipe.distillation.reconstruction == 0
    losses = read_metrics(arm(out, "no-reconstruction"))[-1]["losses"]
    assert "reconstruction" not in losses
    assert losses["imitation"] > 0
    results = json.loads((out / "ablation.json").read_text())
    assert results["both_against"] == {"no-guidance": [], "no-reconstruction": []}
    assert results["summary"]["no-guidance"]["clean"]["sd"] is None


def test_studies_of_other_requests_are_refused(
    study: Path, arguments: list[str], recipe_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="is of another training"):
        ablation.main([*arguments[:-1], "2", "--seeds", "0", "--out", str(study)])
    single = tmp_path / "single.toml"
    single.write_text(RECIPE.replace("imitation = 1.0", "imitation = 0.0"))
    with pytest.raises(InputError, match="has no two teachers"):
        ablation.main([str(single), *arguments[1:], "--out", str(tmp_path / "out")])
    wide = tmp_path / "wide.toml"
    wide.write_text(RECIPE.replace("width = 8", "width = 16", 1))
    with pytest.raises(InputError, match=r"does not fit: the table \[classifier\]"):
        ablation.main([str(wide), *arguments[1:], "--out", str(tmp_path / "out")])
    mixed = tmp_path / "mixed"
    for name, of in (("plain", "data_sha256"), ("both", None)):
        shutil.copytree(arm(study, name).path, mixed / "seed-0" / name)
        if of:
            path = mixed / "seed-0" / name / "run.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {of: "0" * 64}))
    with pytest.raises(InputError, match="not of the same data"):
        ablation.main(["--table", str(mixed)])


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        (
            "across_classifiers",
            ["fashion-mnist", "--out", "o", "--classifiers", "pooled"],
            "expected architecture:width",
        ),
        ("ablation", [], "RECIPE, --base and --out are needed"),
        ("ablation", ["fashion-mnist", "--base", "fashion-mnist", "--out", "o", "--arms", "none"], "no arm 'none'"),
        ("ablation", ["--table", "nowhere"], "nowhere holds no finished run"),
        ("across_classifiers", ["fashion-mnist", "--out", "o", "--classifiers", "vit:1:1"], "no architecture 'vit'"),
        ("training_speed", ["nowhere"], "no run 'nowhere'"),
        ("int8_calibration", ["nowhere"], "no run 'nowhere'"),
        ("gpu", ["nowhere"], "no run 'nowhere'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    script: str,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, *options])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(STUDIES / f"{script}.py"), run_name="__main__")
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert (end.value.code, printed.out) == (2, "")
    assert line.startswith(f"Error: {message}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("advice", ["", GOES_ON])
def test_an_interrupted_study_says_what_goes_on(advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        guarded(interrupted, when_interrupted=advice)
    assert end.value.code == INTERRUPTED
    assert capsys.readouterr().err.split("\n") == ["", "interrupted", *([advice] if advice else []), ""]


def test_a_changed_recipe_is_the_recipe_but_for_the_change() -> None:
    recipe = parse_recipe(RECIPE, source="test")
    assert parse_recipe(changed(recipe, {}), source="test") == recipe
    other = parse_recipe(changed(recipe, {"student": {"epochs": 9}}), source="test")
    assert other.student.epochs == 9
    assert (other.teacher, other.classifier, other.distillation) == (
        recipe.teacher,
        recipe.classifier,
        recipe.distillation,
    )
    with pytest.raises(InputError, match="unknown field"):
        changed(recipe, {"student": {"epoch": 9}})
