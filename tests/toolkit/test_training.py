import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from helpers.silent import Interrupting, Silent, request_for, train_only
from helpers.small_data import ADAPTIVE, RECIPE
from purify_edge.errors import InputError, MissingError
from purify_toolkit.device.choice import choose_device
from purify_toolkit.device.generators import seeded
from purify_toolkit.device.provenance import provenance
from purify_toolkit.runs.data import load_data_of
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.history import read_metrics
from purify_toolkit.train.train import train
from purify_toolkit.train.trainer import batch_indices

EPOCHS = {"classifier": 3, "adversarial_teacher": 2, "normal_teacher": 2, "student": 3}


def test_a_finished_run_holds_what_it_should_and_nothing_else(trained: RunFolder) -> None:
    names = {path.name for path in trained.path.iterdir()}
    assert names == {f"{name}.safetensors" for name in trained.stages} | {
        "run.json",
        "recipe.toml",
        "metrics.jsonl",
        "metrics.json",
        "tensorboard",
        "samples.npz",
        "losses.png",
        "grid.png",
    }
    assert (trained.path / "recipe.toml").read_text() == RECIPE


def test_metrics_have_a_line_an_epoch_and_losses_that_fall(trained: RunFolder) -> None:
    lines = read_metrics(trained)
    assert [(line["stage"], line["epoch"]) for line in lines] == [
        (stage, epoch) for stage, epochs in EPOCHS.items() for epoch in range(epochs)
    ]
    for stage in EPOCHS:
        totals = [sum(line["losses"].values()) for line in lines if line["stage"] == stage]
        assert totals[-1] < totals[0]
    assert "accuracy_adversarial" in lines[-1]["validation"]


def test_the_evaluation_says_what_it_was_made_of(trained: RunFolder) -> None:
    metrics = json.loads((trained.path / "metrics.json").read_text())
    assert metrics["seed"] == 0
    assert metrics["recipe"] == "small"
    assert len(metrics["rows"]) == 5
    assert metrics["rows"][0]["n"] == 200
    assert set(metrics["weights_sha256"]) == {"classifier", "student"}
    assert {"torch", "purify-edge"} <= metrics["evaluated_with"]["versions"].keys()


SLOW = pytest.mark.slow
INTERRUPTIONS = [10, 20, 60, *(pytest.param(after, marks=SLOW) for after in (1, 28, 35, 42))]
"""Batches: in the first epoch or a later one, of each stage."""


@pytest.mark.parametrize("after", INTERRUPTIONS)
def test_an_interrupted_run_ends_the_same(trained: RunFolder, small_data: Path, tmp_path: Path, after: int) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(request_for(out, small_data), Interrupting(after))
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "stude')  # a line that a kill cut short
    with pytest.raises(InputError, match="exists; --resume goes on with it, --force replaces it"):
        train(request_for(out, small_data), Silent())
    train_only(request_for(out, small_data, resume=True))
    for name in trained.stages:
        expected, found = load_file(trained.weights_path(name)), load_file(out / f"{name}.safetensors")
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=0, atol=1e-6)
    expected_lines, found_lines = read_metrics(trained), read_metrics(RunFolder(out))
    assert [(line["stage"], line["epoch"]) for line in found_lines] == [
        (line["stage"], line["epoch"]) for line in expected_lines
    ]


def test_an_interrupted_run_on_crops_ends_the_same(small_data: Path, tmp_path: Path) -> None:
    recipe = RECIPE.replace("imitation = 1.0", "imitation = 0.0").replace("[attack]", "[attack]\ncrop = 0.7")
    request = partial(request_for, folder=small_data, limit=64, recipe_text=recipe)
    train_only(request(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(request(tmp_path / "parts"), Interrupting(24))
    assert [line["stage"] for line in read_metrics(RunFolder(tmp_path / "parts"))][-1] == "student"
    train_only(request(tmp_path / "parts", resume=True))
    expected, found = (load_file(tmp_path / name / "student.safetensors") for name in ("whole", "parts"))
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=1e-6)


class Attacks(Interrupting):
    """Progress that counts the images attacked for the pool, in each epoch of each stage."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[int]] = {}

    def epoch(self, stage: str, epoch: int, epochs: int, units: int) -> None:
        super().epoch(stage, epoch, epochs, units)
        self.found.setdefault(stage, []).append(0)

    def advance(self, units: int, text: str) -> None:
        self.found[self.stages[-1]][-1] += units * (text == "attacking")


def test_the_student_goes_on_with_the_teachers_examples(small_data: Path, tmp_path: Path) -> None:
    progress = Attacks()
    train_only(request_for(tmp_path / "run", small_data, limit=64), progress)
    assert progress.found["adversarial_teacher"] == [64, 32]
    assert progress.found["student"] == [32, 32, 32]  # not all of them in its first epoch
    assert progress.found["normal_teacher"] == [0, 0]


def test_a_student_without_an_adversarial_teacher_makes_its_own_examples(small_data: Path, tmp_path: Path) -> None:
    progress = Attacks()
    recipe = RECIPE.replace("imitation = 1.0", "imitation = 0.0")
    train_only(request_for(tmp_path / "run", small_data, limit=64, recipe_text=recipe), progress)
    assert progress.found == {"classifier": [0] * 3, "student": [64, 32, 32]}
    names = {path.stem for path in (tmp_path / "run").glob("*.safetensors")}
    assert names == {"classifier", "student"}


def test_bfloat16_is_the_arithmetic_of_the_convolutions_and_of_nothing_that_stays(
    trained: RunFolder, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "purify_toolkit.device.precision.has_bfloat16", lambda device: True
    )  # emulated, where it is not
    found: dict[str, set[torch.dtype]] = {}

    def note(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d) and module.training:
            assert module.weight.dtype == torch.float32
            found.setdefault(precision, set()).add(output.dtype)

    losses = {}
    for precision in ("float32", "bfloat16"):
        hook = torch.nn.modules.module.register_module_forward_hook(note)  # type: ignore[arg-type]
        recipe = f'precision = "{precision}"\n{ADAPTIVE}'
        train_only(request_for(tmp_path / precision, small_data, base=trained, limit=192, recipe_text=recipe))
        hook.remove()
        run = RunFolder(tmp_path / precision)
        line = read_metrics(run)[-1]
        assert line["precision"] == precision
        losses[precision] = sum(line["losses"].values())
        weights = load_file(run.weights_path("student")).values()
        assert {value.dtype for value in weights} == {torch.float32, torch.int64}
    assert found == {"float32": {torch.float32}, "bfloat16": {torch.bfloat16}}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.03)


def test_the_seed_and_nothing_else_decides(small_data: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_only(request_for(tmp_path / name, small_data, seed=seed, limit=64))
    runs = {name: RunFolder(tmp_path / name) for name in "abc"}
    weights = {name: run.load_student().head.weight for name, run in runs.items()}
    assert torch.equal(weights["a"], weights["b"])
    assert not torch.equal(weights["a"], weights["c"])
    assert runs["c"].info["images"] == {"train": 64, "validation": 64, "test": 64}


@pytest.mark.parametrize("limit", [1, 5])
def test_even_a_handful_of_images_trains(small_data: Path, tmp_path: Path, limit: int) -> None:
    rows = train(request_for(tmp_path / "run", small_data, limit=limit), Silent())
    assert all(row.n == limit for row in rows)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [({"seed": 5}, "seed: 0 there, 5 requested"), ({"limit": 50}, "limit: None there, 50 requested")],
)
def test_a_run_of_another_request_is_not_resumed(
    trained: RunFolder, small_data: Path, changes: dict[str, int], difference: str
) -> None:
    with pytest.raises(InputError, match=difference):
        train(request_for(trained.path, small_data, resume=True, **changes), Silent())


def test_a_run_of_other_data_is_not_resumed(trained: RunFolder, small_data: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(trained.path, tmp_path / "run"))
    info = trained.info | {"data_sha256": "0" * 64}
    (out / "run.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="was begun with other data"):
        train(request_for(out, small_data, resume=True), Silent())


def test_data_of_other_classes_are_not_evaluated(trained: RunFolder, small_data: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(trained.path, tmp_path / "run"))
    (out / "run.json").write_text(json.dumps(trained.info | {"class_names": ["cat", "dog"]}))
    with pytest.raises(InputError, match=r"the data do not fit .*class_names"):
        load_data_of(RunFolder(out), small_data)


def test_a_folder_of_something_else_is_not_resumed(small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not a run folder"):
        train(request_for(tmp_path, small_data, resume=True), Silent())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("kept", [2000, 0])
def test_a_damaged_checkpoint_is_refused_with_advice(small_data: Path, tmp_path: Path, kept: int) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(request_for(out, small_data), Interrupting(9))  # within the classifier's second epoch
    checkpoint = out / "checkpoints" / "classifier.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"classifier\.pt cannot be resumed from .*remove it to repeat this stage"):
        train(request_for(out, small_data, resume=True), Silent())
    checkpoint.unlink()
    with pytest.raises(KeyboardInterrupt):
        train(request_for(out, small_data, resume=True), Interrupting(20))
    assert RunFolder(out).has("classifier")


def test_a_resumed_run_that_was_complete_is_evaluated_again(trained: RunFolder, small_data: Path) -> None:
    before = (trained.path / "student.safetensors").stat().st_mtime_ns
    rows = train(request_for(trained.path, small_data, resume=True), Silent())
    assert len(rows) == 5
    assert (trained.path / "student.safetensors").stat().st_mtime_ns == before


def test_a_run_that_other_code_goes_on_with_says_so(
    trained: RunFolder, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(trained.path, tmp_path / "run"))
    train_only(request_for(out, small_data, resume=True))
    assert "resumed_with" not in RunFolder(out).info
    now = provenance() | {"commit": "0" * 40}
    monkeypatch.setattr("purify_toolkit.train.request.provenance", lambda: now)
    for _ in range(2):
        train_only(request_for(out, small_data, resume=True))
    assert RunFolder(out).info == trained.info | {"resumed_with": [now]}


def test_a_run_that_is_there_is_replaced_by_force(trained: RunFolder, small_data: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(trained.path, tmp_path / "run"))
    request = request_for(out, small_data, seed=5, limit=64, force=True)
    with pytest.raises(KeyboardInterrupt):
        train(request, Interrupting(10))
    run = RunFolder(out)
    assert run.info["seed"] == 5
    assert run.has("classifier")
    assert not run.has("student")
    assert run.weights_path("classifier").read_bytes() != trained.weights_path("classifier").read_bytes()


def test_force_replaces_no_other_folder_nor_its_own_base(trained: RunFolder, small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not a run folder, and --force replaces no other"):
        train(request_for(tmp_path, small_data, force=True), Silent())
    assert (tmp_path / "notes.txt").exists()
    with pytest.raises(InputError, match="would be replaced; --out names another folder"):
        train(request_for(trained.path, small_data, force=True, base=trained), Silent())
    with pytest.raises(InputError, match="does not hold Fashion-MNIST"):  # nothing is lost to a wrong option
        train(request_for(trained.path, tmp_path, force=True), Silent())
    assert trained.has("student")


def test_generators_depend_on_everything_named() -> None:
    def draw(*names: object) -> float:
        return float(torch.rand(1, generator=seeded(*names)))  # type: ignore[arg-type]

    draws = [draw(0, "a", 0), draw(0, "a", 1), draw(0, "b", 0), draw(1, "a", 0), draw(0, "a", 0, "attack")]
    assert len(set(draws)) == len(draws)
    assert draw(0, "a", 0) == draws[0]


@pytest.mark.parametrize(("count", "sizes"), [(100, [32, 32, 32]), (64, [32, 32]), (5, [5])])
def test_every_batch_is_full_but_a_lone_one(count: int, sizes: list[int]) -> None:
    batches = batch_indices(count, 32, len(sizes), torch.Generator().manual_seed(0))
    assert [len(batch) for batch in batches] == sizes
    seen = torch.cat(batches).tolist()
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(count))


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(InputError, match="no device 'abacus': expected auto, cpu"):
        choose_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(MissingError, match="device 'cuda' cannot be used here"):
            choose_device("cuda")


class Said(Interrupting):
    """Progress that keeps what was said last of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def epoch(self, stage: str, epoch: int, epochs: int, units: int) -> None:
        self.lines.append("")
        super().epoch(stage, epoch, epochs, units)

    def advance(self, units: int, text: str) -> None:
        self.lines[-1] = text


def test_every_epoch_says_its_validation_accuracy(small_data: Path, tmp_path: Path) -> None:
    progress = Said()
    train_only(request_for(tmp_path / "run", small_data, limit=64), progress)
    of_stages = dict(zip(progress.stages, progress.lines, strict=True))
    assert re.fullmatch(r"cross_entropy \d\.\d{4}  validation clean [\d.]+%", of_stages["classifier"])
    assert re.search(r"  validation clean [\d.]+%  validation adversarial [\d.]+%$", of_stages["student"])


def test_a_run_that_is_replaced_is_trained_by_what_the_new_one_says(small_data: Path, tmp_path: Path) -> None:
    """Also where the old one ended in its first stage, when its weights were looked for but its run.json was there."""
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(request_for(out, small_data, limit=64), Interrupting(1))
    before = RunFolder(out).info["mean"]
    with pytest.raises(KeyboardInterrupt):
        train(request_for(out, small_data, limit=128, force=True), Interrupting())
    after = RunFolder(out)
    assert after.info["mean"] != before
    assert load_file(after.weights_path("classifier"))["mean"].flatten().tolist() == pytest.approx(after.info["mean"])
