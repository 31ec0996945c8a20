"""purify-run on a folder of images: its structure, its results, and how it goes on."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.fixtures import Run
from helpers.processes import json_lines
from purify_edge.images.items import Item, Shard, Source

pytestmark = pytest.mark.once

PINNED = ("--engine", "onnxruntime", "--precision", "fp32")
"""For runs whose numbers are compared: what runs by itself depends on what else the machine does."""


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
    found = {line["file"]: line for line in json_lines(out)}
    assert list(found) == [*(f"{tree}/{name}" for name in TREE[:3]), f"{tree}/deep/broken.jpg"] + [
        f"{tree}/{name}" for name in TREE[3:]
    ]
    assert sorted(str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()) == TREE
    assert [found[f"{tree}/{name}"]["saved"] for name in TREE] == [f"{saved}/{name}" for name in TREE]
    assert "cannot be read as an image" in found[f"{tree}/deep/broken.jpg"]["error"]
    assert "5 images in" in err
    assert "1 without an answer" in err


def test_the_shards_of_a_folder_give_each_image_once(run: Run, bundle_path: Path, tree: Path) -> None:
    parts = []
    for number in (1, 2, 3):
        code, out, _ = run("purify-run", bundle_path, tree, "--shard", f"{number}/3", "--json", *PINNED)
        parts.append(json_lines(out))
        errors = sum("error" in line for line in parts[-1])
        assert code == (0 if not errors else 2 if errors == len(parts[-1]) else 1)
    _, out, _ = run("purify-run", bundle_path, tree, "--json", *PINNED)
    whole = {line["file"]: line for line in json_lines(out)}
    assert len(whole) == 6
    together = [line for part in parts for line in part]
    assert sorted(line["file"] for line in together) == sorted(whole)
    assert all(line.get("class") == whole[line["file"]].get("class") for line in together)
    (tree / "more.png").write_bytes((tree / "0.png").read_bytes())
    _, out, _ = run("purify-run", bundle_path, tree, "--shard", "1/3", "--json", *PINNED)
    assert [line["file"] for line in json_lines(out) if "more" not in line["file"]] == [
        line["file"] for line in parts[0]
    ]


def test_a_video_belongs_to_one_shard_and_is_read_by_no_other() -> None:
    read: list[int] = []

    class Film(Source):
        def items(self) -> Iterator[Item]:
            for frame in range(10):
                read.append(frame)
                yield Item("film.mp4", "film", lambda contract: np.zeros((1, 1, 1), np.uint8), frame=frame)

        def count(self) -> int | None:
            raise AssertionError("a video is not counted for each part")

    shards = [Shard(Film(), index, 4) for index in range(4)]
    assert [shard.count() for shard in shards] == [None] * 4
    assert sorted(len(list(shard.items())) for shard in shards) == [0, 0, 0, 10]
    assert len(read) == 10 + 3  # the others look at the first frame's name


def test_shards_are_even_and_keep_a_file_whatever_comes_beside_it() -> None:
    def part_of(names: list[str], index: int) -> list[str]:
        class Files(Source):
            def items(self) -> Iterator[Item]:
                for name in names:
                    yield Item(name, "", lambda contract: np.zeros((1, 1, 1), np.uint8))

        shard = Shard(Files(), index, 3)
        found = [item.file for item in shard.items()]
        assert shard.count() == len(found)
        return found

    names = [f"photos/{number}.png" for number in range(600)]
    parts = [part_of(names, index) for index in range(3)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert all(150 < len(part) < 250 for part in parts)
    more = [*names[::-1], *(f"new/{number}.png" for number in range(100))]
    for index, part in enumerate(parts):
        assert set(part) <= set(part_of(more, index))


def test_a_camera_has_no_shards(run: Run, bundle_path: Path) -> None:
    pytest.importorskip("cv2")
    code, _, err = run("purify-run", bundle_path, "rtsp://localhost:1/none", "--shard", "1/2")
    assert code == 2
    assert "--shard divides files; a camera or a stream cannot be divided" in " ".join(err.split())


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_a_shard_that_is_none_is_refused(run: Run, bundle_path: Path, tree: Path, shard: str) -> None:
    code, _, err = run("purify-run", bundle_path, tree, "--shard", shard)
    assert code == 2
    assert "expected I/N with I from 1 to N, as in 2/3" in " ".join(err.split())


def test_names_come_from_standard_input_and_globs(run: Run, bundle_path: Path, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "names").write_text(f"{tree}/2.png\n{tree}/deep/er\n")
    with (tmp_path / "names").open() as names:
        code, out, _ = run("purify-run", bundle_path, "-", f"{tree}/[4-9].png", "--json", stdin=names)
    assert code == 0
    assert [line["file"] for line in json_lines(out)] == [
        f"{tree}/{name}" for name in ("2.png", "deep/er/1.png", "deep/er/3.png", "4.png")
    ]


def test_csv_says_what_json_says(run: Run, bundle_path: Path, tree: Path) -> None:
    _, out, _ = run("purify-run", bundle_path, tree, "--json", *PINNED)
    code, table, _ = run("purify-run", bundle_path, tree, "--csv", *PINNED)
    assert code == 1
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [{name: value for name, value in row.items() if value} for row in rows] == [
        {name: str(value) for name, value in line.items()} for line in json_lines(out)
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_the_same_command_goes_on(run: Run, bundle_path: Path, tree: Path, tmp_path: Path, suffix: str) -> None:
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
    code, _, err = run(*command[:-1], "fp16")
    assert code == 2
    assert "was written with fashion-mnist/fp32@" in err
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
