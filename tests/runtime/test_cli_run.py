import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.fixtures import Run, Start
from helpers.images import BAD_IMAGES
from helpers.processes import fill_the_disk, json_lines
from helpers.refusals import refusal
from purify_edge import Pipeline
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.machine import may_have_gpu

PINNED = ("--engine", "onnxruntime", "--precision", "fp32")
"""For runs whose numbers are compared: what runs by itself depends on what else the machine does."""


def test_what_is_printed_is_what_the_pipeline_says(run: Run, bundle_path: Path, images: list[Path]) -> None:
    split = load_golden(Bundle.open(bundle_path))["adversarial"]
    with Pipeline.load(bundle_path, engine="onnxruntime", precision="fp32") as pipeline:
        prediction, alone = pipeline.predict(split.images[:5]), pipeline.classify(split.images[:5])
        names = pipeline.class_names
    code, out, _ = run("purify-run", bundle_path, *images, "--json", *PINNED)
    assert code == 0
    found = json_lines(out)
    assert [line["file"] for line in found] == [str(path) for path in images]
    assert [line["label"] for line in found] == prediction.labels.tolist()
    assert [line["class"] for line in found] == [names[label] for label in prediction.labels]
    assert [line["unpurified_class"] for line in found] == [names[label] for label in alone.argmax(axis=1)]
    assert [line["probability"] for line in found] == pytest.approx(prediction.probabilities.max(axis=1), abs=1e-5)


def test_the_table_names_each_file_and_the_engine(run: Run, bundle_path: Path, images: list[Path]) -> None:
    code, out, err = run("purify-run", bundle_path, *images)
    assert code == 0
    for words in (*(path.name for path in images), "purified", "as it came"):
        assert words in out
    assert "fashion-mnist: " in err
    assert (err.count("no NVIDIA GPU here") == 1) != may_have_gpu()
    assert may_have_gpu() or (" on cpu" in err and "tensorrt" not in err)


def test_purified_images_and_grids_are_saved(run: Run, bundle_path: Path, images: list[Path], tmp_path: Path) -> None:
    split = load_golden(Bundle.open(bundle_path))["adversarial"]
    folder, grid = tmp_path / "new" / "purified", tmp_path / "pictures" / "grid.png"
    code, out, _ = run("purify-run", bundle_path, *images, "--save", folder, "--save-grid", grid, "--json", *PINNED)
    assert code == 0
    assert [line["saved"] for line in json_lines(out)] == [str(folder / path.name) for path in images]
    assert sorted(path.name for path in folder.iterdir()) == [path.name for path in images]
    for path, purified in zip(images, split.purified, strict=False):
        saved = np.asarray(Image.open(folder / path.name))
        assert np.abs(saved - purified[0] * 255).max() <= 0.51
    with Image.open(grid) as picture:
        assert picture.format == "PNG"
        assert picture.width > 700
        assert len(np.unique(np.asarray(picture))) > 50


@pytest.mark.parametrize("option", ["--save", "--save-grid"])
def test_an_output_that_exists_is_refused_without_force(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path, option: str
) -> None:
    target = tmp_path / "out"
    kept = target / "kept.txt" if option == "--save" else target
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("kept")
    assert f"{target} exists; --force" in refusal(*run("purify-run", bundle_path, *images, option, target))
    assert kept.read_text() == "kept"
    code, _, _ = run("purify-run", bundle_path, *images, option, target, "--force")
    assert code == 0


def test_a_bad_file_is_reported_and_the_others_are_done(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nonsense")
    code, out, err = run("purify-run", bundle_path, images[0], bad, images[1], "--save", tmp_path / "out")
    assert code == 1
    assert f"Error: {bad} cannot be read as an image" in err
    assert all(path.name in out for path in images[:2])
    assert len(list((tmp_path / "out").iterdir())) == 2
    code, out, _ = run("purify-run", bundle_path, images[0], bad, "--json")
    assert code == 1
    assert "cannot be read" in json_lines(out)[1]["error"]


def test_bad_files_alone_end_with_2(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    content, message = BAD_IMAGES["bomb.png"]
    path = tmp_path / "bomb.png"
    path.write_bytes(content)
    assert message in refusal(*run("purify-run", bundle_path, path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument 'INPUT...'"),
        (("absent.png",), "absent.png: no such file"),
        (("README.md", "--engine", "abacus"), "no engine 'abacus'"),
        (("README.md", "--precision", "int4"), "has no models in int4, only in fp32, fp16"),
        (("README.md", "--save", "README.md/x"), "Not a directory"),
    ],
)
def test_wrong_usage_ends_with_2(run: Run, bundle_path: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in refusal(*run("purify-run", bundle_path, *arguments))


def test_a_reader_that_goes_away_is_no_defect(start: Start, bundle_path: Path, images: list[Path]) -> None:
    for number in range(1000):
        (images[0].parent / f"more{number}.png").symlink_to(images[0])
    process = start("purify-run", bundle_path, images[0].parent, "--json")
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.wait(timeout=300)
    assert "Traceback" not in err
    assert "defect" not in err


def test_a_name_that_is_no_utf_8_is_shown(run: Run, bundle_path: Path, images: list[Path], tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/odd\xff.png"
    os.link(images[0], odd)
    for encoding in ("utf-8:strict", "latin-1", "ascii"):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        code, out, err = run("purify-run", bundle_path, os.fsdecode(odd), env=environment)
        assert code == 0, err
        assert "odd" in out
    Path(os.fsdecode(odd)).unlink()
    assert "no such file" in refusal(*run("purify-run", bundle_path, os.fsdecode(odd), env=environment))


def test_a_full_disk_leaves_no_half_image(run: Run, bundle_path: Path, images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _, err = run("purify-run", bundle_path, *images, "--save", out, preexec_fn=partial(fill_the_disk, 100))
    assert code == 2
    assert "File too large" in err
    assert "Traceback" not in err
    assert list(out.iterdir()) == []


def test_a_run_that_goes_on_draws_a_new_grid(run: Run, bundle_path: Path, images: list[Path], tmp_path: Path) -> None:
    out, grid = tmp_path / "results.jsonl", tmp_path / "grid.png"
    options = ("--out", out, "--save-grid", grid, *PINNED)
    assert run("purify-run", bundle_path, *images[:3], *options)[0] == 0
    before = grid.read_bytes()
    code, _, err = run("purify-run", bundle_path, *images[:3], *options)
    assert code == 0, err
    assert grid.read_bytes() == before
    code, _, err = run("purify-run", bundle_path, *images, *options)
    assert code == 0, err
    assert grid.read_bytes() != before


@pytest.mark.parametrize("results", ["none", "empty", "of other pictures"])
def test_a_picture_that_is_not_the_grid_of_the_results_is_never_drawn_over(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path, results: str
) -> None:
    out, grid = tmp_path / "results.jsonl", tmp_path / "grid.png"
    if results == "of other pictures":
        assert run("purify-run", bundle_path, *images, "--out", out)[0] == 0
        grid = images[0]
    else:
        assert run("purify-run", bundle_path, *images, "--save-grid", grid)[0] == 0
    if results == "empty":
        out.touch()
    before = grid.read_bytes()
    command = ("purify-run", bundle_path, *images, "--out", out, "--save-grid", grid)
    assert f"{grid} exists; --force" in refusal(*run(*command))
    assert grid.read_bytes() == before


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_results_of_no_known_format_are_refused_before_anything_is_loaded(
    run: Run, images: list[Path], tmp_path: Path, force: tuple[str, ...]
) -> None:
    code, out, err = run("purify-run", tmp_path / "absent", *images, "--out", tmp_path / "results.txt", *force)
    assert (code, out) == (2, "")
    assert err == f"Error: {tmp_path / 'results.txt'}: expected a name that ends with .jsonl or .csv\n"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_folder_that_the_results_do_not_tell_of_is_left_alone(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"results{suffix}"
    assert run("purify-run", bundle_path, *images, "--out", out)[0] == 0
    results, pixels = out.read_bytes(), images[0].read_bytes()
    command = ("purify-run", bundle_path, *images, "--out", out, "--save", images[0].parent)
    assert f"{images[0].parent} exists; --force" in refusal(*run(*command))
    assert (out.read_bytes(), images[0].read_bytes()) == (results, pixels)


def test_of_many_images_the_table_shows_the_first(run: Run, bundle_path: Path, images: list[Path]) -> None:
    for number in range(145):
        shutil.copy(images[0], images[0].parent / f"more{number:03}.png")
    code, out, err = run("purify-run", bundle_path, images[0].parent)
    assert code == 0
    assert out.count("more0") == 95
    assert "and 50 more; --json, --csv or --out lists all" in out
    assert "150 images in" in err


def test_one_image_is_told_of_in_the_singular(run: Run, bundle_path: Path, images: list[Path], tmp_path: Path) -> None:
    command = ("purify-run", bundle_path, images[0], "--out", tmp_path / "results.jsonl")
    assert "  1 image in" in run(*command)[2]
    assert "1 was done before" in run(*command)[2]
