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

from purify_edge.run.results import results_in

pytestmark = pytest.mark.once

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


def test_an_image_that_could_not_be_saved_is_in_no_grid(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "out" / images[0].name).mkdir(parents=True)
    grid = tmp_path / "grid.png"
    command = (
        "purify-run",
        bundle_path,
        images[0],
        "--save",
        tmp_path / "out",
        "--save-grid",
        grid,
        "--force",
        *PINNED,
    )
    assert run(*command)[0] == 2
    assert not grid.exists()


def test_folders_that_cannot_be_read_are_told_of_each(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "loop").symlink_to("loop")
    (tmp_path / "other").mkdir()
    code, _, err = run("purify-run", bundle_path, tmp_path / "photos", tmp_path / "other", *PINNED)
    assert code == 2
    assert "more than once" not in err


def test_closed_standard_input_holds_no_names(bundle_path: Path) -> None:
    command = ["sh", "-c", '"$@" <&-', "sh", COMMANDS / "purify-run", bundle_path, "-", *PINNED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 images in" in done.stderr


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
def test_an_image_is_read_from_a_pipe(bundle_path: Path, images: list[Path], tmp_path: Path, name: str) -> None:
    results = tmp_path / "results.jsonl"
    program = f'cat "$1" | "$0" "$2" {name} --out "$3" --engine onnxruntime --precision fp32'
    command = [COMMANDS / "purify-run", images[0], bundle_path, results]
    for count in (1, 2):  # what comes out of a pipe was not done before
        done = subprocess.run(["sh", "-c", program, *command], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        found = lines(results.read_text())
        assert [line["file"] for line in found] == [name] * count
        assert found[0]["label"] == found[-1]["label"]


ODD_NAMES = (b"caf\xe9.png", b"line\nbreak.png", b"\x1b]0;title\x07.png", b"[bold]x[red].png", b"x" * 251 + b".png")


@pytest.mark.parametrize("format_", ["json", "csv"])
def test_any_name_goes_through_every_output(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path, format_: str
) -> None:
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)  # noqa: PTH102  # the names are bytes
    for name in ODD_NAMES:
        shutil.copy(images[0], folder + b"/" + name)
        shutil.copy(images[0], folder + b"/no-image" + name[-200:])
        Path(os.fsdecode(folder + b"/no-image" + name[-200:])).write_bytes(b"no image")
    results = tmp_path / ("results.jsonl" if format_ == "json" else "results.csv")
    outputs = ("--save", tmp_path / "saved", "--save-grid", tmp_path / "grid.png", "--out", results)
    for _ in range(2):  # the same command goes on
        code, _, err = run("purify-run", bundle_path, tmp_path / "odd", *outputs, f"--{format_}", *PINNED)
        assert code == 1, err
        found = list(results_in(results))
        assert sorted(os.fsencode(Path(result.file).name) for result in found if result.saved) == sorted(ODD_NAMES)
        assert sum(result.error is not None for result in found) == len(ODD_NAMES)
    assert len(list((tmp_path / "saved").iterdir())) == len(ODD_NAMES)


def test_no_name_steers_the_terminal(run: Run, bundle_path: Path, images: list[Path], tmp_path: Path) -> None:
    good, bad = images[0].rename(images[0].parent / "\x1b[31mgood.png"), tmp_path / "\x1b]0;title\x07.png"
    bad.write_bytes(b"no image")
    code, out, err = run("purify-run", bundle_path, good, bad, *PINNED)
    assert code == 1
    assert "\x1b" not in out + err
    assert r"\x1b]0;title\x07.png cannot be read" in err


def spoiled(path: Path, offset: tuple[int, int], value: int) -> Path:
    """A zip of a member in whose two headers a byte is set, and of a good one."""
    content = bytearray(path.read_bytes())
    for head, place in zip((b"PK\3\4", b"PK\1\2"), offset, strict=True):
        content[content.find(head) + place] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("offset", "value", "message"), [((6, 8), 1, "encrypted"), ((8, 10), 99, "compression method is not supported")]
)
def test_a_member_of_a_zip_that_cannot_be_unpacked_is_an_error_of_its_own(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path, offset: tuple[int, int], value: int, message: str
) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for image in images[:2]:
            archive.write(image, image.name)
    spoiled(path, offset, value)
    code, out, _ = run("purify-run", bundle_path, path, "--json", "--save", tmp_path / "saved", *PINNED)
    assert code == 1
    bad, good = lines(out)
    assert message in bad["error"]
    assert "label" in good


def test_names_of_any_length_in_a_zip_are_done(run: Run, bundle_path: Path, images: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "long.zip"
    names = ("n" * 60_000 + ".png", "d/" * 20_000 + "x.png", "C:\\x\\a.png", "//srv/c.png", "d.png")
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.write(images[0], name)
    outputs = ("--save", tmp_path / "saved", "--save-grid", tmp_path / "grid.png")
    code, out, err = run("purify-run", bundle_path, path, *outputs, "--json", *PINNED)
    assert code == 0, err
    assert all((tmp_path / "saved") in Path(line["saved"]).parents for line in lines(out))
    assert len(lines(out)) == len(names)


@pytest.mark.parametrize("option", ["--save-grid", "--annotate"])
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_folder_where_a_file_is_written_is_refused_before_the_work(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path, option: str, force: tuple[str, ...]
) -> None:
    (tmp_path / "empty.mp4").mkdir()
    code, out, err = run("purify-run", bundle_path, images[0], option, tmp_path / "empty.mp4", *force, *PINNED)
    assert (code, out) == (2, "")
    assert "empty.mp4 is a folder; name a file" in err
