import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.images import BAD_IMAGES
from purify_runtime import Pipeline
from purify_runtime.bundle import Bundle
from purify_runtime.golden import load_golden

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def images(bundle_path: Path, tmp_path: Path) -> list[Path]:
    """Five adversarial golden images as PNG."""
    folder = tmp_path / "images"
    folder.mkdir()
    split = load_golden(Bundle.open(bundle_path))["adversarial"]
    paths = [folder / f"image{index}.png" for index in range(5)]
    for path, pixels in zip(paths, split.images[:5], strict=True):
        Image.fromarray(pixels[:, :, 0]).save(path)
    return paths


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_what_is_printed_is_what_the_pipeline_says(run: Run, bundle_path: Path, images: list[Path]) -> None:
    split = load_golden(Bundle.open(bundle_path))["adversarial"]
    with Pipeline.load(bundle_path) as pipeline:
        prediction, alone = pipeline.predict(split.images[:5]), pipeline.classify(split.images[:5])
        names = pipeline.class_names
    code, out, _ = run("purify-run", bundle_path, *images, "--json")
    assert code == 0
    found = lines(out)
    assert [line["file"] for line in found] == [str(path) for path in images]
    assert [line["label"] for line in found] == prediction.labels.tolist()
    assert [line["class"] for line in found] == [names[label] for label in prediction.labels]
    assert [line["unpurified_class"] for line in found] == [names[label] for label in alone.argmax(axis=1)]
    assert [line["probability"] for line in found] == pytest.approx(prediction.probabilities.max(axis=1), abs=1e-5)


def test_the_table_names_each_file(run: Run, bundle_path: Path, images: list[Path]) -> None:
    code, out, _ = run("purify-run", bundle_path, *images)
    assert code == 0
    assert all(path.name in out for path in images)
    assert "purified" in out
    assert "as it came" in out


def test_purified_images_and_the_grid_are_saved(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path
) -> None:
    split = load_golden(Bundle.open(bundle_path))["adversarial"]
    folder, grid = tmp_path / "new" / "purified", tmp_path / "pictures" / "grid.png"
    code, out, _ = run("purify-run", bundle_path, *images, "--save", folder, "--save-grid", grid, "--json")
    assert code == 0
    assert [line["saved"] for line in lines(out)] == [str(folder / path.name) for path in images]
    assert sorted(path.name for path in folder.iterdir()) == [path.name for path in images]
    for path, purified in zip(images, split.purified, strict=False):
        saved = np.asarray(Image.open(folder / path.name))
        assert np.abs(saved - purified[0] * 255).max() <= 0.51
    with Image.open(grid) as picture:
        assert picture.format == "PNG"
        assert picture.width > 700
        assert len(np.unique(np.asarray(picture))) > 50


def test_files_of_one_name_do_not_overwrite_each_other(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    twin = Path(images[1].rename(other / images[0].name))
    code, _, _ = run("purify-run", bundle_path, images[0], twin, "--save", tmp_path / "out")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["image0-2.png", "image0.png"]


@pytest.mark.parametrize("option", ["--save", "--save-grid"])
def test_an_output_that_exists_is_refused_without_force(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path, option: str
) -> None:
    target = tmp_path / "out"
    kept = target / "kept.txt" if option == "--save" else target
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("kept")
    code, out, err = run("purify-run", bundle_path, *images, option, target)
    assert code == 2
    assert f"{target} exists; --force" in err
    assert out == ""
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
    assert f"Error: {bad} cannot be read as PNG or JPEG" in err
    assert all(path.name in out for path in images[:2])
    assert len(list((tmp_path / "out").iterdir())) == 2
    code, out, _ = run("purify-run", bundle_path, images[0], bad, "--json")
    assert code == 1
    assert "cannot be read" in lines(out)[1]["error"]


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_files_alone_end_with_2(run: Run, bundle_path: Path, tmp_path: Path, name: str) -> None:
    content, message = BAD_IMAGES[name]
    path = tmp_path / name
    path.write_bytes(content)
    code, out, err = run("purify-run", bundle_path, path)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("Error:") == 1
    assert "Traceback" not in err
    assert "Warning" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing argument 'FILES...'"),
        (("absent.png",), "absent.png: no such file"),
        (("README.md", "--engine", "abacus"), "no engine 'abacus'"),
        (("README.md", "--precision", "int4"), "has no purifier in int4, only in fp32, fp16"),
        (("README.md", "--save", "README.md/x"), "Not a directory"),
    ],
)
def test_wrong_usage_ends_with_2(run: Run, bundle_path: Path, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = run("purify-run", bundle_path, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_a_reader_that_goes_away_is_no_defect(start: Callable[..., Any], bundle_path: Path, images: list[Path]) -> None:
    process = start("purify-run", bundle_path, *images * 200, "--json")
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.wait(timeout=60)
    assert "Traceback" not in err
    assert "defect" not in err


def test_the_engine_that_was_taken_is_named_with_the_reason(run: Run, bundle_path: Path, images: list[Path]) -> None:
    code, _, err = run("purify-run", bundle_path, images[0])
    assert code == 0
    assert "engine onnxruntime on cpu, the first that works here" in err


def test_a_name_that_is_no_utf_8_is_shown_all_the_same(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path
) -> None:
    odd = os.fsencode(tmp_path) + b"/odd\xff.png"
    os.link(images[0], odd)
    for encoding in ("utf-8:strict", "latin-1", "ascii"):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        code, out, err = run("purify-run", bundle_path, os.fsdecode(odd), env=environment)
        assert code == 0, err
        assert "odd" in out
    Path(os.fsdecode(odd)).unlink()
    code, _, err = run("purify-run", bundle_path, os.fsdecode(odd), env=environment)
    assert code == 2
    assert "no such file" in err


def test_a_disk_that_fills_up_ends_with_2_and_leaves_no_half_image(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path
) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write over the limit then fails like one on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    out = tmp_path / "out"
    code, _, err = run("purify-run", bundle_path, *images, "--save", out, preexec_fn=limit)
    assert code == 2
    assert "File too large" in err
    assert "Traceback" not in err
    assert list(out.iterdir()) == []
