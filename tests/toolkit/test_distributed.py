"""Training by two processes of one machine, talking over gloo: the same as by one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers import launched, small_data
from helpers.processes import wait_for
from purify_edge.errors import InputError
from purify_edge.files import file_sha256
from purify_toolkit.device.processes import Processes, find_processes
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.history import read_metrics
from purify_toolkit.train.trainer import Trainer

pytestmark = pytest.mark.slow

IMAGES = 105  # in batches of odd size, two batches for the attack
CROPPED = "[attack]", "[attack]\ncrop = 0.8"
PLAIN, ADAPTIVE = (
    text.replace("batch_size = 64", "batch_size = 35").replace("epochs = 3", "epochs = 2").replace(*CROPPED)
    for text in (small_data.RECIPE, small_data.ADAPTIVE)
)
CASES = {
    "classifier": ("classifier", PLAIN),
    "adversarial_teacher": ("adversarial_teacher", PLAIN),
    "normal_teacher": ("normal_teacher", PLAIN),
    "student": ("student", PLAIN),
    "adaptive": ("student", ADAPTIVE),
}
TOLERANCE = 1e-9  # of float64: rounding makes 1e-13, statistics or random numbers of their own 1e-4 and more
ONE = Processes(torch.device("cpu"))
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(small_data.__file__).parent.parent)}


@pytest.fixture(scope="module")
def larger_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many that the adversarial teacher's examples take more than one process's turn."""
    folder = tmp_path_factory.mktemp("idx")
    small_data.write_idx(folder, train=IMAGES + small_data.VALIDATION)
    return folder


def copies(trained: RunFolder, folder: Path) -> dict[str, RunFolder]:
    """For each case a run that has the networks before the case's stage, and not yet its own."""
    runs = {}
    for case, (stage, recipe) in CASES.items():
        run = runs[case] = RunFolder(Path(shutil.copytree(trained.path, folder / case)))
        (run.path / "recipe.toml").write_text(recipe)
        (run.path / "metrics.jsonl").unlink()
        run.weights_path(stage).unlink()
    return runs


@pytest.fixture(scope="module")
def alone(trained: RunFolder, larger_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """Each case trained by this process."""
    runs = copies(trained, tmp_path_factory.mktemp("one"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(launched.idx.SHA256, "FashionMNIST", launched.accept(larger_folder))
        data = launched.small_images(larger_folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for case, run in runs.items():
        launched.train_stage(run, CASES[case][0], data, ONE)
    torch.set_num_threads(threads)
    return runs


@pytest.fixture(scope="module")
def together(
    trained: RunFolder, larger_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, RunFolder], dict[str, object]]:
    """Each case trained by two processes; and what their arithmetic gave."""
    runs = copies(trained, tmp_path_factory.mktemp("two"))
    cases = [part for case, run in runs.items() for part in (str(run.path), CASES[case][0])]
    with subprocess.Popen(
        [*LAUNCHER, launched.__file__, str(larger_folder), *cases],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=300)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, err
    return runs, json.loads(out.splitlines()[-1])


def test_two_processes_take_the_step_of_one(together: tuple[object, dict[str, object]]) -> None:
    found = together[1]
    assert found["processes"] == 2
    assert found["mean"] == [1.5]
    assert found["owner"] == [5, 6]
    assert found["same_keys"]
    for name in ("weights", "images", "buffers", "evaluated"):
        assert torch.tensor(found[name]).max() < 1e-12, name


@pytest.mark.parametrize("case", CASES)
def test_two_processes_reproduce_the_curves_and_the_weights_of_one(
    alone: dict[str, RunFolder], together: tuple[dict[str, RunFolder], object], case: str
) -> None:
    expected, found = read_metrics(alone[case]), read_metrics(together[0][case])
    assert len(expected) == len(found) > 1
    for one, two in zip(expected, found, strict=True):
        assert two["losses"] == pytest.approx(one["losses"], rel=TOLERANCE)
        assert two["validation"] == pytest.approx(one["validation"], abs=0.02)
        assert two["learning_rate"] == one["learning_rate"]
    assert expected[0]["losses"] != expected[-1]["losses"]
    weights, same = (load_file(runs[case].weights_path(CASES[case][0])) for runs in (alone, together[0]))
    assert list(same) == list(weights)
    for key, value in weights.items():
        limit = TOLERANCE * max(1, float(value.abs().max()))
        assert (same[key] - value).abs().max() < limit, key


def test_the_examples_of_two_processes_are_those_of_one(
    alone: dict[str, RunFolder], together: tuple[dict[str, RunFolder], object]
) -> None:
    expected, found = alone["adversarial_teacher"].load_examples(), together[0]["adversarial_teacher"].load_examples()
    assert expected is not None
    assert found is not None
    assert len(expected["examples"]) > launched.ATTACKED_AT_ONCE  # more than one process's turn
    assert found.keys() == expected.keys() == {"examples", "versions", "images"}
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Start a program by the launcher; what it says goes to `log`."""
    running = []

    def start(*arguments: str) -> "subprocess.Popen[bytes]":
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [*LAUNCHER, *arguments], env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
            )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def children(process: "subprocess.Popen[bytes]") -> dict[str, int]:
    """The launcher's processes by their rank."""
    found = {}
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks = [value[5:].decode() for value in environment if value.startswith(b"RANK=")]
        found |= dict.fromkeys(ranks, int(child))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_process_that_dies_ends_the_others_and_one_process_can_go_on(
    launch: Callable[..., "subprocess.Popen[bytes]"], idx_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(PLAIN)
    out = tmp_path / "run"
    arguments = ["train", str(idx_folder), str(tmp_path / "small.toml"), "--out", str(out), "--device", "cpu"]
    arguments += ["--limit", "200"]
    process = launch(small_data.__file__, *arguments)
    wait_for(lambda: len(read_metrics(RunFolder(out))) >= 2 or process.poll() is not None)
    os.kill(children(process)["1"], signal.SIGKILL)
    assert process.wait(timeout=300) != 0
    done = len(read_metrics(RunFolder(out)))
    log = (tmp_path / "log").read_text()
    assert log.count("classifier: epoch 1/2") == 1  # one of the two speaks
    assert 2 <= done < 8
    command = [sys.executable, small_data.__file__, *arguments, "--resume"]
    resumed = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300)
    assert resumed.returncode in (0, 1), resumed.stderr  # so small a training may end in harm
    assert "classifier: epoch 1/2" not in resumed.stderr
    assert f"tensorboard --logdir {out}/tensorboard" in resumed.stderr
    assert [line["epoch"] for line in read_metrics(RunFolder(out))] == [0, 1] * 4


@pytest.mark.slow
def test_two_processes_resume_what_one_began_and_one_of_them_writes(
    launch: Callable[..., "subprocess.Popen[bytes]"], alone: dict[str, RunFolder], idx_folder: Path, tmp_path: Path
) -> None:
    """The normal teacher is missing, and the student after it."""
    out = Path(shutil.copytree(alone["classifier"].path, tmp_path / "run"))
    for name in ("normal_teacher", "student"):
        (out / f"{name}.safetensors").unlink()
    (tmp_path / "small.toml").write_text(PLAIN)
    info = json.loads((out / "run.json").read_text())
    info["recipe_sha256"] = file_sha256(tmp_path / "small.toml")
    (out / "run.json").write_text(json.dumps(info))
    arguments = ["train", str(idx_folder), str(tmp_path / "small.toml"), "--out", str(out), "--device", "cpu"]
    process = launch(small_data.__file__, *arguments, "--resume", "--json")
    assert process.wait(timeout=200) in (0, 1), (tmp_path / "log").read_text()  # it may end in harm
    log = (tmp_path / "log").read_text()
    assert log.count("run folder:") == 1
    assert log.count('"threat": "white-box"') == 1
    stages = [line["stage"] for line in read_metrics(RunFolder(out))]
    assert stages == ["classifier", "classifier", "normal_teacher", "normal_teacher", "student", "student"]


def test_a_batch_that_is_too_small_to_share_is_refused(alone: dict[str, RunFolder], larger_folder: Path) -> None:
    many = Processes(torch.device("cpu"))
    many.count = 200
    run = alone["normal_teacher"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(launched.idx.SHA256, "FashionMNIST", launched.accept(larger_folder))
        stages = launched.Stages(run, launched.small_images(larger_folder), processes=many)
    with pytest.raises(InputError, match="a batch of 35 images cannot be shared by 200 processes; start fewer"):
        Trainer(stages.build("normal_teacher"), run, count=IMAGES, seed=0, processes=many, progress=launched.Silent())


@pytest.mark.parametrize("device", ["cuda:0", "mps"])
def test_processes_need_a_device_each(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=f"several processes cannot share {device}; --device cuda"):
        find_processes(torch.device(device))


def test_one_process_needs_no_accelerate() -> None:
    program = """
import sys, torch
from purify_toolkit.device.processes import find_processes
assert find_processes(torch.device("cpu")).count == 1
assert "accelerate" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_the_command_is_a_module_for_launchers() -> None:
    command = [sys.executable, "-m", "purify_toolkit.train.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0
    assert -1 < done.stdout.index("--out") < done.stdout.index("--seed") < done.stdout.index("--limit")  # as declared
    assert "torchrun --nproc-per-node 2 -m purify_toolkit.train.cli" in " ".join(done.stdout.split())
