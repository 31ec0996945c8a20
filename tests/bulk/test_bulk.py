"""purify-ray on a real Ray of two nodes: the answers of purify-run, once each, whatever is killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from helpers.images import BAD_IMAGES
from helpers.ports import free_port
from helpers.processes import json_lines, wait_for
from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.extras import silence

silence()
ray = pytest.importorskip("ray", reason="needs purify-edge[ray]")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
Cluster = pytest.importorskip("ray.cluster_utils").Cluster

from helpers import deadly  # noqa: E402
from purify_edge.bulk import BulkPurifier, cluster  # noqa: E402

COMMANDS = {"purify-ray": "bulk", "purify-run": "run"}
BAD = ["empty.png", "text.png", "cut.jpg"]
LARGE, SIDE = 120, 1000
"""Pictures that take a while to read, so that a run of them can be killed."""


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    """Two nodes on this machine, the second of which may be lost."""
    made = Cluster()
    for tries_left in reversed(range(cluster.TRIES)):
        try:
            made.add_node(num_cpus=2, include_dashboard=False)
            break
        except Exception:  # Ray gives itself half a minute, and knows no other name for that
            if not tries_left:
                raise
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def photos(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 images of the golden set, 50 of them clean and the others attacked, and files that are none."""
    folder, golden = tmp_path_factory.mktemp("bulk") / "photos", load_golden(Bundle.open(bundle_path))
    folder.mkdir()
    for index, pixels in enumerate([*golden["adversarial"].images[:150], *golden["clean"].images[150:200]]):
        Image.fromarray(pixels[:, :, 0]).save(folder / f"{index:03d}.png")
    for name in BAD:
        (folder / name).write_bytes(BAD_IMAGES[name][0])
    return folder


@pytest.fixture(scope="module")
def large_photos(adversarial: GoldenSplit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bulk") / "large"
    folder.mkdir()
    Image.fromarray(adversarial.images[0][:, :, 0]).resize((SIDE, SIDE)).save(folder / "000.png")
    for index in range(1, LARGE):
        os.link(folder / "000.png", folder / f"{index:03d}.png")
    return folder


def start(command: str, *arguments: object) -> "subprocess.Popen[str]":
    program = f"from purify_edge.{COMMANDS[command]}.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(command: str, *arguments: object) -> tuple[int, str, str]:
    process = start(command, *arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def rows_of(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(folder).to_pylist()
    return found


def workers() -> list[int]:
    """The processes of workers of the cluster here."""
    family = psutil.Process().children(recursive=True)
    return [process.pid for process in family if _title(process).startswith("ray::MapWorker")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_answers_are_those_of_purify_run(ray_cluster: Any, bundle_path: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    way = ("--engine", "onnxruntime", "--precision", "fp32", "--spare-clean")
    options = (bundle_path, photos, out, *way, "--address", ray_cluster.address, "--batch", 16, "--purified")
    code, printed, err = run("purify-ray", *options, "--json")
    assert code == 1, err
    assert "Traceback" not in err
    summary = json.loads(printed)
    assert (summary["images"], summary["errors"], summary["done_before"]) == (200, len(BAD), 0)
    found = {row["path"]: row for row in rows_of(out)}
    expected = {row["file"]: row for row in json_lines(run("purify-run", bundle_path, photos, *way, "--json")[1])}
    assert found.keys() == expected.keys()
    assert 40 < sum(bool(row["spared"]) for row in found.values()) <= 50
    assert summary["suspicious"] == sum(bool(row.get("suspicious")) for row in expected.values())
    for path, row in found.items():
        for name in ("label", "class", "suspicious", "spared", "error"):
            assert row[name] == expected[path].get(name), path
        for name in ("probability", "suspicion"):
            assert row[name] == pytest.approx(expected[path].get(name), abs=2e-6), path  # purify-run rounds to 1e-6
        assert (row["purified"] is None) == (row["error"] is not None)
    (first, *_) = (row["purified"] for row in found.values() if row["purified"])
    assert first.startswith(b"\x89PNG")
    assert sorted(Path(path).name for path, row in found.items() if row["error"]) == sorted(BAD)


@pytest.mark.slow
def test_every_image_is_there_once_whatever_is_killed(
    ray_cluster: Any, bundle_path: Path, large_photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = (bundle_path, large_photos, out, "--address", ray_cluster.address, "--batch", 4, "--workers", 2)
    node = ray_cluster.add_node(num_cpus=1)
    process = start("purify-ray", *options)
    wait_for(lambda: list(out.glob("part-*")) or process.poll() is not None)
    os.kill(workers()[0], signal.SIGKILL)
    count = len(list(out.glob("part-*")))
    wait_for(lambda: len(list(out.glob("part-*"))) > count or process.poll() is not None)
    process.kill()
    process.communicate()
    before = len(rows_of(out))
    assert 0 < before < LARGE

    process = start("purify-ray", *options, "--json")
    wait_for(lambda: len(rows_of(out)) > before or process.poll() is not None)
    ray_cluster.remove_node(node, allow_graceful=False)
    printed, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(printed)["done_before"] == before
    assert sorted(row["path"] for row in rows_of(out)) == [str(path) for path in sorted(large_photos.iterdir())]
    assert not [row for row in rows_of(out) if row["error"]]


def test_the_class_in_a_dataset_of_ones_own(ray_cluster: Any, bundle_path: Path, photos: Path) -> None:
    with cluster.connect(ray_cluster.address):
        files = ray.data.read_binary_files(str(photos), include_paths=True).add_column("mine", lambda batch: 7)
        answers = files.map_batches(
            BulkPurifier,
            fn_constructor_kwargs={"bundle": str(bundle_path)},
            batch_size=64,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=0.5,
        ).take_all()
    assert len(answers) == 200 + len(BAD)
    assert {row["mine"] for row in answers} == {7}
    assert "bytes" not in answers[0]
    for row in answers:
        assert (row["label"] is None) == (row["error"] is not None) == (Path(row["path"]).name in BAD)


def test_a_batch_of_rays_is_divided_and_stays_in_order(bundle_path: Path, photos: Path) -> None:
    files = pyarrow.table({"path": [str(path) for path in sorted(photos.iterdir())]})
    sizes: list[int] = []
    answers = []
    for batch in (16, len(files)):
        purifier = BulkPurifier(bundle_path, engine="onnxruntime", precision="fp32", batch=batch)
        predict = purifier.pipeline.predict
        purifier.pipeline.predict = lambda images, predict=predict: (sizes.append(len(images)), predict(images))[1]
        answers.append(purifier(files))
    assert max(sizes[:-1]) == 16
    assert answers[0]["path"].to_pylist() == files["path"].to_pylist()
    for column in ("path", "label", "error"):
        assert answers[0][column] == answers[1][column]


@pytest.mark.slow
def test_a_file_that_kills_its_worker_becomes_an_error(
    ray_cluster: Any, bundle_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "BLOCKS", 1)  # all batches are handed out together, and run beside each other
    ray.cloudpickle.register_pickle_by_value(deadly)  # workers cannot import it
    paths = [*map(str, sorted(photos.glob("00*.png")))]
    paths.insert(3, str(photos / "deadly.png"))
    with cluster.connect(ray_cluster.address) as connected:
        connected.worker = deadly.DeadlyWorker
        tables = list(connected.answers(paths, {"bundle": str(bundle_path)}, count=1, gpus=0, batch=4))
    rows = [row for table in tables for row in table.to_pylist()]
    assert sorted(row["path"] for row in rows) == sorted(paths)
    (failed,) = [row for row in rows if row["error"]]
    assert failed["path"] == str(photos / "deadly.png")
    assert "workers ended while they were at work on it" in failed["error"]


def test_exit_codes_and_errors(bundle_path: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, err = run("purify-ray", bundle_path, f"{photos}/*.gif", out)
    assert code == 2
    assert "nothing matches" in err
    assert "nothing matches" in rows_of(out)[0]["error"]
    port = free_port()
    for message, *options in (
        ("no answer", bundle_path, photos, out, "--address", f"127.0.0.1:{port}"),
        ("holds no results of purify-ray", bundle_path, photos, photos),
        ("is not a bundle", photos, photos, out),
        ("engine", bundle_path, photos, out, "--engine", "none"),
    ):
        code, printed, err = run("purify-ray", *options)
        assert (code, printed) == (2, ""), err
        assert message in err
        assert "Traceback" not in err
