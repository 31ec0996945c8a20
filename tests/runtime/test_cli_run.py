import csv
import io
import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.images import BAD_IMAGES
from purify_edge import Pipeline
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle

Run = Callable[..., tuple[int, str, str]]
PINNED = ("--engine", "onnxruntime", "--precision", "fp32")
"""For runs whose numbers are compared: what runs by itself depends on what else the machine does."""


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_what_is_printed_is_what_the_pipeline_says(run: Run, bundle_path: Path, images: list[Path]) -> None:
    split = load_golden(Bundle.open(bundle_path))["adversarial"]
    with Pipeline.load(bundle_path, engine="onnxruntime", precision="fp32") as pipeline:
        prediction, alone = pipeline.predict(split.images[:5]), pipeline.classify(split.images[:5])
        names = pipeline.class_names
    code, out, _ = run("purify-run", bundle_path, *images, "--json", *PINNED)
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
    code, out, _ = run("purify-run", bundle_path, *images, "--save", folder, "--save-grid", grid, "--json", *PINNED)
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
    assert f"Error: {bad} cannot be read as an image" in err
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
        ((), "Missing argument 'INPUT...'"),
        (("absent.png",), "absent.png: no such file"),
        (("README.md", "--engine", "abacus"), "no engine 'abacus'"),
        (("README.md", "--precision", "int4"), "has no models in int4, only in fp32, fp16"),
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
    assert "fashion-mnist: " in err
    assert " on cpu" in err
    assert "not tensorrt: needs " in err


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


@pytest.fixture
def tree(images: list[Path], tmp_path: Path) -> Path:
    """The five images on two levels, with one that is broken between them and a file that is no image."""
    root = tmp_path / "tree"
    for index, path in enumerate(images):
        target = root / ("deep/er" if index % 2 else ".") / f"{index}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    (root / "deep" / "broken.jpg").write_bytes(b"nonsense")
    (root / "notes.txt").write_text("no image")
    return root


TREE = ["0.png", "2.png", "4.png", "deep/er/1.png", "deep/er/3.png"]


def test_a_folder_is_run_and_saved_with_its_structure(run: Run, bundle_path: Path, tree: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    code, out, err = run("purify-run", bundle_path, tree, "--save", saved, "--json")
    assert code == 1
    found = {line["file"]: line for line in lines(out)}
    assert list(found) == [*(f"{tree}/{name}" for name in TREE[:3]), f"{tree}/deep/broken.jpg"] + [
        f"{tree}/{name}" for name in TREE[3:]
    ]
    assert sorted(str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()) == TREE
    assert [found[f"{tree}/{name}"]["saved"] for name in TREE] == [f"{saved}/{name}" for name in TREE]
    assert "cannot be read as an image" in found[f"{tree}/deep/broken.jpg"]["error"]
    assert "5 images in" in err
    assert "1 without an answer" in err


def test_a_zip_of_a_folder_gives_what_the_folder_gives(run: Run, bundle_path: Path, tree: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "tree"), "zip", tree)
    _, out, _ = run("purify-run", bundle_path, tree, "--json", *PINNED)
    code, zipped, _ = run("purify-run", bundle_path, archive, "--json", *PINNED)
    assert code == 1
    folder = {line["file"].removeprefix(f"{tree}/"): line.get("probability") for line in lines(out)}
    assert {line["file"].removeprefix(f"{archive}/"): line.get("probability") for line in lines(zipped)} == folder


def test_names_come_from_standard_input_and_globs(run: Run, bundle_path: Path, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "names").write_text(f"{tree}/2.png\n{tree}/deep/er\n")
    with (tmp_path / "names").open() as names:
        code, out, _ = run("purify-run", bundle_path, "-", f"{tree}/[4-9].png", "--json", stdin=names)
    assert code == 0
    assert [line["file"] for line in lines(out)] == [
        f"{tree}/{name}" for name in ("2.png", "deep/er/1.png", "deep/er/3.png", "4.png")
    ]


def test_csv_says_what_json_says(run: Run, bundle_path: Path, tree: Path) -> None:
    _, out, _ = run("purify-run", bundle_path, tree, "--json", *PINNED)
    code, table, _ = run("purify-run", bundle_path, tree, "--csv", *PINNED)
    assert code == 1
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [{name: value for name, value in row.items() if value} for row in rows] == [
        {name: str(value) for name, value in line.items()} for line in lines(out)
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_the_same_command_goes_on_with_what_is_not_done(
    run: Run, bundle_path: Path, tree: Path, tmp_path: Path, suffix: str
) -> None:
    out, saved = tmp_path / f"results{suffix}", tmp_path / "saved"
    command = ("purify-run", bundle_path, tree, "--out", out, "--save", saved, *PINNED)
    assert run(*command)[0] == 1
    complete = out.read_bytes()
    rows = complete.splitlines(keepends=True)
    out.write_bytes(b"".join(rows[:-1]) + rows[-1][:20])
    (saved / "2.png").write_bytes(b"")
    (tree / "deep" / "new.png").write_bytes((tree / "0.png").read_bytes())
    before = (saved / "0.png").stat().st_mtime_ns
    code, _, err = run(*command)
    assert code == 1  # the broken one is tried again
    assert "3 images in" in err
    assert "3 were done before" in err
    assert (saved / "0.png").stat().st_mtime_ns == before
    assert (saved / "2.png").stat().st_size > 0
    again = out.read_bytes().splitlines(keepends=True)
    assert len(again) == len(rows) + 1
    assert set(rows) < set(again)
    (tree / "deep" / "broken.jpg").unlink()
    code, _, err = run(*command)
    assert code == 0
    assert "0 images in" in err
    assert b"broken" not in out.read_bytes()
    assert run(*command, "--force")[0] == 0
    assert out.read_bytes() == b"".join(sorted(set(again) - {row for row in again if b"broken" in row}, key=_place))


def _place(row: bytes) -> tuple[bool, bytes]:
    """Where a row belongs: the header first, then in the order of the tree."""
    return not row.startswith(b"file,"), row.replace(b"/deep/", b"/~deep/")


def test_a_run_that_goes_on_draws_its_grid_again(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path
) -> None:
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


@pytest.mark.parametrize("results", ["none", "empty"])
def test_a_grid_is_not_drawn_over_where_there_are_no_results(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path, results: str
) -> None:
    out, grid = tmp_path / "results.jsonl", tmp_path / "grid.png"
    assert run("purify-run", bundle_path, *images, "--save-grid", grid)[0] == 0
    before = grid.read_bytes()
    if results == "empty":
        out.touch()
    code, _, err = run("purify-run", bundle_path, *images, "--out", out, "--save-grid", grid)
    assert code == 2
    assert f"{grid} exists; --force" in err
    assert grid.read_bytes() == before


def test_a_picture_that_is_no_grid_is_never_drawn_over(
    run: Run, bundle_path: Path, images: list[Path], tmp_path: Path
) -> None:
    out, before = tmp_path / "results.jsonl", images[0].read_bytes()
    assert run("purify-run", bundle_path, *images, "--out", out)[0] == 0
    code, _, err = run("purify-run", bundle_path, *images, "--out", out, "--save-grid", images[0])
    assert code == 2
    assert f"{images[0]} exists; --force" in err
    assert images[0].read_bytes() == before


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
    code, _, err = run("purify-run", bundle_path, *images, "--out", out, "--save", images[0].parent)
    assert code == 2
    assert f"{images[0].parent} exists; --force" in err
    assert (out.read_bytes(), images[0].read_bytes()) == (results, pixels)


def test_results_of_another_precision_are_not_gone_on_with(
    run: Run, bundle_path: Path, tree: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.jsonl"
    assert run("purify-run", bundle_path, tree, "--out", out, "--precision", "fp32")[0] == 1
    before = out.read_bytes()
    code, _, err = run("purify-run", bundle_path, tree, "--out", out, "--precision", "fp16")
    assert code == 2
    assert "was written with fashion-mnist/fp32@" in err
    assert out.read_bytes() == before


def test_of_many_images_the_table_shows_the_first(run: Run, bundle_path: Path, images: list[Path]) -> None:
    for number in range(145):
        shutil.copy(images[0], images[0].parent / f"more{number:03}.png")
    code, out, err = run("purify-run", bundle_path, images[0].parent)
    assert code == 0
    assert out.count("more0") == 95
    assert "and 50 more; --json, --csv or --out tells of all" in out
    assert "150 images in" in err


def test_one_image_is_told_of_in_the_singular(run: Run, bundle_path: Path, images: list[Path], tmp_path: Path) -> None:
    command = ("purify-run", bundle_path, images[0], "--out", tmp_path / "results.jsonl")
    assert "  1 image in" in run(*command)[2]
    assert "1 was done before" in run(*command)[2]


def test_metrics_of_a_run_are_in_the_file(run: Run, bundle_path: Path, tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    path = tmp_path / "purify.prom"
    assert run("purify-run", bundle_path, tree, *PINNED, "--metrics", path)[0] == 1
    text = path.read_text()
    assert 'purify_images_total{outcome="good"} 5.0' in text
    assert 'purify_images_total{outcome="error"} 1.0' in text
    assert 'purify_stage_seconds_count{stage="read"} 5.0' in text
    assert 'purify_stage_seconds_count{stage="predict"} 1.0' in text
    assert 'engine="onnxruntime on cpu",model="fashion-mnist/fp32@' in text


def test_where_no_terminal_is_progress_comes_in_lines(
    bundle_path: Path, tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from purify_edge.run.cli import main
    from purify_edge.shell import progress

    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    with pytest.raises(SystemExit) as caught:
        main([str(bundle_path), str(tree)])
    assert caught.value.code == 1
    assert re.search(r"6 (of 6 )?images, [\d,]+ images/s", capsys.readouterr().err)
