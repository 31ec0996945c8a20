"""A training that fits the data and the machine: its length, its memory, its beginning, and what it costs."""

import json
import logging
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn

from helpers.silent import Silent, request_for
from helpers.small_data import RECIPE, VALIDATION
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.shipped import FOLDER
from purify_edge.errors import InputError
from purify_toolkit.data.batch import Batch
from purify_toolkit.data.datasets import load_data
from purify_toolkit.data.splits import Split
from purify_toolkit.device import memory
from purify_toolkit.device.memory import free_bytes, kept_bytes
from purify_toolkit.device.processes import Processes
from purify_toolkit.networks.architectures import Purifier
from purify_toolkit.recipe import OptimizerTable, PurifierTable, parse_recipe, with_start
from purify_toolkit.runs.folder import KEYS, RunFolder
from purify_toolkit.runs.history import read_metrics
from purify_toolkit.runs.pretrained import open_run
from purify_toolkit.train import trainer as trainer_module
from purify_toolkit.train.cli import main, what_helps
from purify_toolkit.train.cost import cost_of
from purify_toolkit.train.stages import Stages, validated
from purify_toolkit.train.train import train
from purify_toolkit.train.trainer import Trainer
from purify_toolkit.train.warm_start import start_from

CPU = torch.device("cpu")
START = 'start = "fashion-mnist"\nwidth = 16\ndepth = 2\nblocks = 1\n'
WARM = RECIPE.replace("[student]\nwidth = 4\ndepth = 2\nblocks = 1\nepochs = 3\n", f"[student]\n{START}steps = 25\n")


def test_a_length_in_steps_holds_for_few_images_and_for_many() -> None:
    table = OptimizerTable(steps=120, batch_size=8, learning_rate=1.0, weight_decay=0.0)
    assert table.length(3) == table.length(2_000_000) == (10, 12)
    epochs = msgspec.structs.replace(table, steps=0, epochs=7)
    assert [epochs.length(count) for count in (3, 80)] == [(7, 1), (7, 10)]
    for given in ("steps = 4\nepochs = 3", ""):
        with pytest.raises(InputError, match="either epochs or steps"):
            parse_recipe(RECIPE.replace("epochs = 3", given), source="r.toml")


@pytest.mark.parametrize(("side", "count"), [(28, 2000), (64, 2000), (128, 500), (224, 200), (1024, 200)])
def test_fewer_validation_images_are_looked_at_where_they_are_large(side: int, count: int) -> None:
    images = torch.empty(1, dtype=torch.uint8).expand(3000, 3, side, side)
    assert len(validated(Split(images, torch.zeros(3000)))) == count


def test_parts_of_a_batch_share_its_images_and_its_random_numbers() -> None:
    batch = Batch(torch.arange(10), torch.Generator(), torch.Generator(), slice(1, None, 2))
    parts, drawn = [], []
    for part in batch.parts(2):
        parts.append(part.mine.tolist())
        drawn.append(torch.rand(1, generator=part.generator).item())
        assert part.first(0.6) == (6, len([index for index in part.mine if index < 6]))
    assert parts == [[1, 5, 9], [3, 7]]
    assert drawn[0] == drawn[1]


@pytest.fixture
def stages(trained: RunFolder, small_data: Path) -> Stages:
    data = load_data("fashion-mnist", small_data, validation_size=VALIDATION).limited(96)
    return Stages(trained, data, processes=Processes(CPU))


def test_a_batch_that_memory_cannot_hold_is_computed_in_parts_that_add_up(
    stages: Stages, trained: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gradients = []
    caplog.set_level(logging.INFO, logger="purify_edge")
    for free in (2**40, 2**20, 0):
        monkeypatch.setattr(trainer_module, "free_bytes", lambda device, free=free: free)
        stage = replace(stages.build("student"), keep_statistics=True)
        trainer = Trainer(stage, trained, count=96, seed=0, processes=Processes(CPU), progress=Silent())
        sizes: list[int] = []
        stage.network.register_forward_hook(lambda module, inputs, output, sizes=sizes: sizes.append(len(inputs[0])))
        trainer._step(Batch(torch.arange(64), torch.Generator(), torch.Generator(), slice(0, None, 1)))
        gradients.append([parameter.grad for parameter in stage.network.parameters()])
        assert sum(sizes) == 64
        assert (len(sizes) > 1) == (free < 2**40)
    for whole, added, *_ in zip(*gradients, strict=True):
        torch.testing.assert_close(added, whole, rtol=1e-3, atol=1e-6)
    assert "student: a batch of 64 images needs about" in caplog.text


def test_what_is_kept_for_an_image_is_counted_once_and_without_what_an_attack_frees_again() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())

    def losses(count: int) -> dict[str, torch.Tensor]:
        images = torch.rand(count, 1, 8, 8, requires_grad=True)
        torch.autograd.grad(network(images).sum(), images)
        return {"loss": network(images).square().mean()}

    one, two = (kept_bytes(lambda count=count: losses(count)) for count in (1, 2))
    assert two - one == 4 * 8 * 8 * (1 + 4)  # the input, and the features that ReLU, square and mean share


def test_a_containers_limit_counts_and_what_it_cached_of_files_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CGROUP_FOLDER", tmp_path)
    machine = free_bytes(CPU)
    (tmp_path / "memory.max").write_text("max\n")
    assert min(machine, free_bytes(CPU)) > 0
    for name, content in {"max": "3000\n", "current": "2900\n", "stat": "anon 5\ninactive_file 700\n"}.items():
        (tmp_path / f"memory.{name}").write_text(content)
    assert free_bytes(CPU) == 800


def test_a_student_begins_as_the_one_that_ships_and_keeps_its_statistics(small_data: Path, tmp_path: Path) -> None:
    shipped = open_run("fashion-mnist").load_student()
    train(request_for(tmp_path / "run", small_data, recipe_text=WARM, limit=20), Silent())
    run = RunFolder(tmp_path / "run")
    lines = [line for line in read_metrics(run) if line["stage"] == "student"]
    assert [line["epoch"] for line in lines] == list(range(9))  # of 3 steps each
    found = load_file(run.weights_path("student"))
    changed = {key: not torch.equal(value, found[key]) for key, value in shipped.state_dict().items()}
    assert not any(changed[key] for key in changed if "running" in key)
    assert all(changed[key] for key in changed if key.endswith("weight"))
    distance = (found["head.weight"] - shipped.head.weight).abs().mean()
    assert distance < 0.5 * shipped.head.weight.abs().mean()  # random weights would be further away than that


def test_a_student_can_be_taken_as_it_is(small_data: Path, tmp_path: Path) -> None:
    text = WARM.replace("imitation = 1.0", "imitation = 0.0")
    assert text != WARM
    train(request_for(tmp_path / "run", small_data, recipe_text=text, limit=20, as_is=True), Silent())
    run, theirs = RunFolder(tmp_path / "run"), open_run("fashion-mnist").load_student().state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in run.load_student().state_dict().items())
    assert {line["stage"] for line in read_metrics(run)} == {"classifier"}
    assert run.metrics is not None
    assert run.metrics["rows"]
    assert "without --as-is, or with a length" in what_helps(run)
    with pytest.raises(InputError, match="as_is: True there, False requested"):
        train(request_for(tmp_path / "run", small_data, recipe_text=text, limit=20, resume=True), Silent())
    for refused in (RECIPE, WARM):
        with pytest.raises(InputError, match=r"--as-is takes the purifier .* begins from none, or has teachers"):
            train(request_for(tmp_path / "other", small_data, recipe_text=refused, as_is=True), Silent())
    assert not (tmp_path / "other").exists()


def test_the_command_line_names_what_a_student_begins_from(small_data: Path, tmp_path: Path) -> None:
    theirs, start = run_with_student(tmp_path / "theirs", 3, width=8, depth=1, blocks=1)
    recipe = tmp_path / "mine.toml"
    recipe.write_text(RECIPE.replace("imitation = 1.0", "imitation = 0.0"))
    arguments = [str(recipe), "--data", str(small_data), "--limit", "20", "--out", str(tmp_path / "run")]
    refused = CliRunner().invoke(main, [*arguments, "--start", str(start), "--from-scratch"])
    assert refused.exit_code == 2
    assert "--from-scratch leaves out the purifier that --start and --as-is take" in refused.stderr
    done = CliRunner().invoke(main, [*arguments, "--start", str(start), "--as-is"])
    assert done.exit_code in (0, 1), done.stderr  # a random purifier does harm
    run = RunFolder(tmp_path / "run")
    assert run.recipe.student.start == str(start)
    assert run.recipe.student.network == {"width": 8, "depth": 1, "blocks": 1, "bottleneck": 0}
    assert run.recipe.teacher.width == 4
    grey = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(grey.expand(-1, 3, -1, -1)).logit().mean(1, keepdim=True)
        torch.testing.assert_close(run.load_student()(grey).logit(), expected, rtol=1e-3, atol=1e-3)


def test_a_run_is_not_replaced_by_one_that_begins_from_it(small_data: Path, tmp_path: Path) -> None:
    start = run_with_student(tmp_path / "theirs", 3, width=8, depth=1, blocks=1)[1]
    recipe = tmp_path / "mine.toml"
    recipe.write_text(RECIPE)
    arguments = [str(recipe), "--data", str(small_data), "--limit", "20", "--out", str(start), "--force"]
    refused = CliRunner().invoke(main, [*arguments, "--start", f"{start}/../{start.name}"])
    assert refused.exit_code == 2
    assert "which it begins from; --out names another folder" in " ".join(refused.stderr.split())
    assert (start / "student.safetensors").is_file()


def test_a_recipe_without_a_line_for_the_student_is_not_begun_without_its_start() -> None:
    with pytest.raises(InputError, match=r"--start found no table \[student\] in the recipe"):
        with_start("student = { width = 4, depth = 2, blocks = 1, epochs = 3 }\n", "photos", {"width": 12})


def test_a_pair_that_ships_can_be_the_teacher_as_it_is(small_data: Path, tmp_path: Path) -> None:
    weights = {"adversarial_teacher_weight": 1.0, "reconstruction": 0.0, "classifier_guidance": 0.0}
    text = RECIPE.replace("[teacher]\nwidth = 4\ndepth = 2\nblocks = 0\nepochs = 2\n", f"[teacher]\n{START}")
    for key, value in weights.items():
        text = re.sub(f"(?m)^{key} = .*$", f"{key} = {value}", text)
    train(request_for(tmp_path / "run", small_data, recipe_text=text, limit=40), Silent())
    run, theirs = RunFolder(tmp_path / "run"), open_run("fashion-mnist").load_student().state_dict()
    teacher = run.load_teacher("adversarial_teacher").state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in teacher.items())
    lines = [line for line in read_metrics(run) if line["stage"] == "student"]
    assert {line["stage"] for line in read_metrics(run)} == {"classifier", "student"}
    assert all(list(line["losses"]) == ["imitation"] for line in lines)
    assert "The student took " in what_helps(run)
    with pytest.raises(InputError, match="every loss of the student weighs 0"):
        parse_recipe(text.replace("imitation = 1.0", "imitation = 0.0"), source="r.toml")
    assert lines[-1]["losses"]["imitation"] < lines[0]["losses"]["imitation"]


@pytest.mark.parametrize(("of", "channels"), [(3, 1), (1, 3), (3, 3)])
def test_a_start_is_fitted_to_the_channels(of: int, channels: int, tmp_path: Path) -> None:
    size = {"width": 4, "depth": 2, "blocks": 1}
    theirs, start = run_with_student(tmp_path / "theirs", of, **size)
    table = PurifierTable(start=str(start), steps=1, batch_size=2, learning_rate=1e-3, weight_decay=0.0, **size)
    purifier = Purifier(channels, **table.network).eval()
    start_from(purifier, table)
    grey = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = purifier(grey.expand(-1, channels, -1, -1))
        expected = theirs(grey.expand(-1, of, -1, -1)).logit()
    expected = expected if of == channels else expected.mean(1, keepdim=True)
    torch.testing.assert_close(found.logit(), expected.expand_as(found), rtol=1e-3, atol=1e-3)


def run_with_student(folder: Path, channels: int, **size: int) -> tuple[Purifier, Path]:
    """Make a run folder of nothing but a random student; return it and the folder."""
    folder.mkdir()
    lines = "\n".join(f"{key} = {value}" for key, value in size.items())
    student = f"[student]\n{lines}\nepochs = 3\n"
    text = RECIPE.replace("[student]\nwidth = 4\ndepth = 2\nblocks = 1\nepochs = 3\n", student)
    assert student in text
    (folder / "recipe.toml").write_text(text)
    info = dict.fromkeys(KEYS, "") | {"image_shape": [channels, 28, 28]}
    (folder / "run.json").write_text(json.dumps(info))
    purifier = Purifier(channels, **size)
    RunFolder(folder).save_weights("student", purifier)
    return purifier.eval(), folder


def test_a_start_of_another_size_is_refused() -> None:
    table = parse_recipe(WARM.replace("width = 16", "width = 8"), source="r.toml").student
    with pytest.raises(InputError, match=r'"fashion-mnist" has width = 16, depth = 2, blocks = 1.*--from-scratch'):
        start_from(Purifier(1, width=8, depth=2, blocks=1), table)


def test_costs_are_those_of_the_graphs_that_ship(small_data: Path) -> None:
    run = open_run("fashion-mnist")
    data = load_data("fashion-mnist", small_data, validation_size=VALIDATION)
    cost = cost_of(run, data, CPU)
    flop = {model.role: model.flop for model in Bundle.open(FOLDER / "fashion-mnist").manifest.models}
    assert (cost.student, cost.classifier) == (flop["purifier"], flop["classifier"])
    assert list(cost.seconds) == ["adversarial_teacher", "normal_teacher", "evaluation"]  # the others are trained
    more = cost_of(run, replace(data, test=data.test[:50]), CPU)
    share = more.seconds["evaluation"] / more.seconds["normal_teacher"]
    whole = cost.seconds["evaluation"] / cost.seconds["normal_teacher"]
    assert share == pytest.approx(whole / 4)


def test_a_purifier_that_costs_more_than_the_classifier_is_told_of_before_the_training(
    small_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="purify_edge")
    for width, is_told in ((8, True), (64, False)):
        caplog.clear()
        text = WARM.replace("width = 8", f"width = {width}").replace("epochs = 3", "steps = 1")
        text = text.replace("\nepochs = 2", "\nsteps = 1").replace("steps = 25", "steps = 1")
        train(request_for(tmp_path / str(width), small_data, recipe_text=text, limit=10), Silent())
        assert ("times what it protects" in caplog.text) == is_told
        assert "all will take about" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_of_large_tensors_is_used_again() -> None:
    """A program that allocates a large tensor again and again has the kernel give it memory once."""
    program = """
import resource, sys, torch
from purify_toolkit.device.choice import choose_device
if sys.argv[1:]: choose_device("cpu")
faults = []
for _ in range(20):
    torch.ones(2**24)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[9])
"""
    again, kept = (
        int(subprocess.run([sys.executable, "-c", program, *more], capture_output=True, text=True, check=True).stdout)
        for more in ([], ["keep"])
    )
    assert kept < again / 10
