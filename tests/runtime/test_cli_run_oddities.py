"""What one image, one name or one stream can do to a run: nothing but an error line of its own."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., tuple[int, str, str]]
COMMANDS = Path(sys.executable).parent
PINNED = ("--engine", "onnxruntime", "--precision", "fp32")


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_a_name_that_is_too_long_for_a_folder_is_shortened(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path
) -> None:
    names = [f"{'ä' * 150}{ending}.png" for ending in ("a", "b")]
    with zipfile.ZipFile(tmp_path / "long.zip", "w") as archive:
        for name in names:
            archive.write(images[0], name)
    code, out, err = run(
        "purify-run", bundle_path, tmp_path / "long.zip", "--save", tmp_path / "out", "--json", *PINNED
    )
    assert code == 0, err
    saved = [Path(line["saved"]) for line in lines(out)]
    assert len(set(saved)) == 2
    assert all(path.is_file() for path in saved)


def test_an_image_that_cannot_be_saved_is_an_error_of_that_image(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "out" / images[1].name).mkdir(parents=True)
    command = ("purify-run", bundle_path, *images, "--save", tmp_path / "out", "--json", "--force", *PINNED)
    code, out, _ = run(*command)
    assert code == 1
    assert [line.get("error") is not None for line in lines(out)] == [index == 1 for index in range(len(images))]
    assert "cannot be saved as" in lines(out)[1]["error"]


def test_an_image_that_is_named_twice_is_done_once(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path
) -> None:
    results = tmp_path / "results.jsonl"
    twice = (images[0], images[0].parent, f"{images[0].parent}/./{images[0].name}")
    code, _, err = run("purify-run", bundle_path, *twice, "--out", results, *PINNED)
    assert code == 0, err
    assert len(results.read_text().splitlines()) == len(list(images[0].parent.glob("*.png")))
    assert "2 named more than once" in err


def test_results_that_are_a_link_stay_one(run: Run, bundle_path: Path, images: list[Path], tmp_path: Path) -> None:
    real, link = tmp_path / "disk" / "results.jsonl", tmp_path / "results.jsonl"
    real.parent.mkdir()
    link.symlink_to(real)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert run("purify-run", bundle_path, images[0], broken, "--out", link, *PINNED)[0] == 1
    shutil.copy(images[0], broken)
    assert run("purify-run", bundle_path, images[0], broken, "--out", link, *PINNED)[0] == 0  # drops a line of the file
    assert link.is_symlink()
    assert [json.loads(line)["file"] for line in real.read_text().splitlines()] == [str(images[0]), str(broken)]


def test_a_folder_without_images_is_an_error(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.psd").write_bytes(b"x")
    code, _, err = run("purify-run", bundle_path, folder, *PINNED)
    assert code == 2
    assert "has no images, only 1 file of other kinds (.psd 1)" in err


def test_what_is_passed_over_is_told(run: Run, bundle_path: Path, images: list[Path]) -> None:
    (images[0].parent / "notes.txt").write_text("x")
    (images[0].parent / ".hidden.png").write_text("x")
    code, _, err = run("purify-run", bundle_path, images[0].parent, *PINNED)
    assert code == 0
    assert "passed over 1 file of other kinds (.txt 1), 1 hidden" in err


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_are_closed_get_nothing_and_the_work_is_done(
    bundle_path: Path, images: list[Path], tmp_path: Path, closed: str
) -> None:
    program = f'"$@" {closed}'
    command = [COMMANDS / "purify-run", bundle_path, images[0], "--json", "--out", tmp_path / "results.jsonl", *PINNED]
    done = subprocess.run(["sh", "-c", program, "sh", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1


def test_files_have_the_permissions_that_the_user_asks_for(
    bundle_path: Path, images: list[Path], tmp_path: Path
) -> None:
    grid, report = tmp_path / "grid.png", tmp_path / "report.html"
    run_it = f"purify-run {bundle_path} {images[0]} --save-grid {grid} --engine onnxruntime"
    check = f"purify-check {bundle_path} --report {report} --rounds 0 --engine onnxruntime"
    environment = os.environ | {"PATH": f"{COMMANDS}:{os.environ['PATH']}"}
    subprocess.run(
        ["sh", "-c", f"umask 027; {run_it} && {check}"], check=True, capture_output=True, env=environment, timeout=300
    )
    assert [oct(path.stat().st_mode & 0o777) for path in (grid, report)] == ["0o640", "0o640"]


@pytest.mark.parametrize("name", ["/dev/stdin", "/dev/fd/0"])
def test_an_image_is_read_from_a_pipe(
    commands: Path, bundle_path: Path, images: list[Path], tmp_path: Path, name: str
) -> None:
    results = tmp_path / "results.jsonl"
    program = f'cat "$1" | "$0" "$2" {name} --out "$3" --engine onnxruntime --precision fp32'
    command = [commands / "purify-run", images[0], bundle_path, results]
    for count in (1, 2):  # what comes out of a pipe was not done before
        done = subprocess.run(["sh", "-c", program, *command], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        found = lines(results.read_text())
        assert [line["file"] for line in found] == [name] * count
        assert found[0]["label"] == found[-1]["label"]
