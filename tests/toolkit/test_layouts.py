"""Folders and zips as people have them: other names of splits, none at all, a table of labels, no labels."""

import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.images import zipped
from purify_edge.errors import InputError
from purify_toolkit.data.image_folder import load_image_folder
from purify_toolkit.data.splits import ImageData

LEVELS = {"cat": 40, "dog": 200}


def write(folder: Path, *places: str, count: int = 10) -> Path:
    """JPEGs of one grey-blue a class, each of another green: the place's last folder, or `cat` in it, is the class."""
    for place in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
        level = next((LEVELS[name] for name in LEVELS if name in place), 90)
        for index in range(count):
            Image.new("RGB", (8, 6), (level, 20 * index % 256, 60)).save(folder / place / f"{index}.jpg", quality=95)
    return folder


def read(source: Path, caplog: pytest.LogCaptureFixture, **options: object) -> tuple[ImageData, str]:
    caplog.clear()
    with caplog.at_level("INFO", "purify_edge"):
        data = load_image_folder(source, validation_size=2000, **options)  # type: ignore[arg-type]
    (line,) = [record.getMessage() for record in caplog.records]
    return data, line


def sizes(data: ImageData) -> list[int]:
    return [len(part) for part in (data.train, data.validation, data.test)]


LAYOUTS = {
    "train and test": (("train", "test"), [16, 4, 20], "train in 'train', test in 'test'", False),
    "train and val": (("train", "val"), [16, 4, 20], "there is no test part: the validation part is it", False),
    "other names": (("Training", "Valid", "testing"), [20, 20, 20], "train in 'Training', validation in 'Valid'", True),
    "no splits": (("",), [12, 4, 4], "CLASS/FILE, without splits: made at random, 60% to train on", False),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["folder", "zip", "zip with one top folder"])
def test_a_layout_is_found_and_told(tmp_path: Path, layout: str, form: str, caplog: pytest.LogCaptureFixture) -> None:
    splits, expected, told, is_own = LAYOUTS[layout]
    source = write(
        tmp_path / "x" / "pets", *(f"{split}/{name}" if split else name for split in splits for name in LEVELS)
    )
    if form != "folder":
        source = zipped(source.parent if "top" in form else source, tmp_path / "pets.zip")
    data, line = read(source, caplog)
    assert (data.class_names, sizes(data), data.own_validation) == (("cat", "dog"), expected, is_own)
    assert line.startswith(f"read {sum(expected)} images, 2 classes, 6x8x3, skipped 0; {form[:3]}")
    assert told in line
    for part in (data.train, data.validation, data.test):
        assert torch.equal(part.images[:, 0, 0, 0] > 120, part.labels == 1)
    assert data.sha256() == load_image_folder(source, validation_size=2000).sha256()


@pytest.mark.parametrize("names", [("cat.zip", "dog.zip"), ("Train.zip", "TEST.zip")], ids=["a class", "a split"])
def test_each_zip_of_a_folder_may_be(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        top = name.removesuffix(".zip")
        places = (top,) if top in LEVELS else (f"{top}/cat", f"{top}/dog")
        zipped(write(tmp_path / "x" / top, *places), tmp_path / "zips" / name)
    data = load_image_folder(tmp_path / "zips", validation_size=2000)
    assert (data.class_names, sizes(data)) == (("cat", "dog"), [12, 4, 4] if "cat.zip" in names else [16, 4, 20])


def test_what_lies_above_the_splits_may_be_called_like_one(tmp_path: Path) -> None:
    write(tmp_path / "x", *(f"Testing/{split}/{name}" for split in ("train", "test") for name in LEVELS))
    data = load_image_folder(zipped(tmp_path / "x", tmp_path / "a.zip"), validation_size=2000)
    assert sizes(data) == [16, 4, 20]


def test_splits_that_are_made_are_stratified_and_share_no_image(tmp_path: Path) -> None:
    write(tmp_path, "cat", count=10)
    write(tmp_path, "dog", count=5)
    write(tmp_path, "eel", count=1)
    write(tmp_path, "fox", count=2)
    data = load_image_folder(tmp_path, validation_size=3)
    found = [Counter(part.labels.tolist()) for part in (data.train, data.validation, data.test)]
    assert found == [{0: 6, 1: 3, 2: 1, 3: 1}, {0: 2, 1: 1, 3: 1}, {0: 2, 1: 1}]
    greens = [part.images[part.labels == 0][:, 1, 0, 0].tolist() for part in (data.train, data.validation, data.test)]
    assert len({green for part in greens for green in part}) == 10


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert load_image_folder(write(tmp_path, "train", "truck"), validation_size=3).class_names == ("train", "truck")


@pytest.mark.parametrize(("places", "message"), [
    (("train/cat", "train/dog"), "the split 'test': .* has none; expected SPLIT/CLASS/FILE.*or CLASS/FILE"),
    (("",), "holds neither a folder 'train' nor a zip"),
    (("train", "test"), "the split 'train': there is no class"),
])  # fmt: skip
def test_what_is_no_layout_is_refused(tmp_path: Path, places: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_image_folder(write(tmp_path, *places), validation_size=3)


def test_two_images_are_too_few_for_three_parts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 images, too few to make splits of"):
        load_image_folder(write(tmp_path, "cat", "dog", count=1), validation_size=3)


def table(folder: Path, text: str) -> Path:
    (folder / "labels.csv").write_text(text)
    return folder / "labels.csv"


def lines(count: int = 10, *, suffix: str = ".jpg", row: str = "{file},{label}") -> str:
    names = [
        (f"{place}/{index}{suffix}", label) for place, label in (("a", "cat"), ("b", "dog")) for index in range(count)
    ]
    return "".join(row.format(file=file, label=label) + "\n" for file, label in names)


@pytest.mark.parametrize("text", [
    lines(),
    "file,label\n" + lines(),
    "\ufeffLabel;note;Image_ID\n" + lines(suffix="", row="{label};x;{file}"),
    "filename\tclass\n" + lines(row="{file}\t{label}"),
    lines(row=".\\{file},{label}").replace("/", "\\"),
], ids=["no header", "header", "other columns, no suffix, semicolons", "tabs", "Windows"])  # fmt: skip
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_labels_may_come_in_a_table(tmp_path: Path, text: str, form: str, caplog: pytest.LogCaptureFixture) -> None:
    source = write(tmp_path / "photos", "a", "b", count=11)
    for path in (source / "b").iterdir():
        Image.new("RGB", (8, 6), (LEVELS["dog"], 9, 9)).save(path)
    if form == "zip":
        source = zipped(source, tmp_path / "photos.zip")
    data, line = read(source, caplog, labels_file=table(tmp_path, text))
    assert (data.class_names, sizes(data)) == (("cat", "dog"), [12, 4, 4])
    assert torch.equal(data.train.images[:, 0, 0, 0] > 120, data.train.labels == 1)
    assert "skipped 2 (" in line
    assert "without a line in labels.csv 2" in line
    assert "labels of labels.csv, without splits: made" in line


def test_a_table_may_say_the_splits(tmp_path: Path) -> None:
    write(tmp_path / "photos", "a", "b")
    rows = lines().splitlines()
    text = "path,category,split\n" + "".join(f"{row},{'Valid' if '8' in row else 'train'}\n" for row in rows)
    assert sizes(load_image_folder(tmp_path / "photos", validation_size=3, labels_file=table(tmp_path, text))) == [
        15,
        3,
        2,
    ]


def test_the_folders_of_a_table_may_be_splits(tmp_path: Path) -> None:
    write(tmp_path / "photos", "train", "test")
    text = lines().replace("a/", "train/").replace("b/", "test/").replace("1.jpg,cat", "1.jpg,dog")
    assert sizes(load_image_folder(tmp_path / "photos", validation_size=3, labels_file=table(tmp_path, text))) == [
        7,
        3,
        10,
    ]


@pytest.mark.parametrize(("text", "message"), [
    ("name,kind\n" + lines(), r"its columns are name, kind; a column for the file is called file, .*; a column for"),
    ("file,kind\n" + lines(), r"its columns are file, kind; a column for the label is called label, class"),
    ("just one column\n", "no columns; expected file,label"),
    (lines() + "a/99.jpg,cat\nb/1.jpg,cat\na/7.jpg,\n",
     r"not there, in .*: 'a/99\.jpg'; in more than one line: .*b/1\.jpg.*; without a label: 'a/7\.jpg \(line 23\)'"),
    ("file,label,split\n" + lines(row="{file},{label},fold 1"), "splits 'fold 1'; expected train, validation or test"),
])  # fmt: skip
def test_what_is_wrong_with_a_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "photos", "a", "b")
    with pytest.raises(InputError, match=message):
        load_image_folder(tmp_path / "photos", validation_size=3, labels_file=table(tmp_path, text))


@pytest.mark.parametrize("places", [("",), ("a/b", "c")])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_images_without_labels_may_lie_anywhere(
    tmp_path: Path, places: tuple[str, ...], form: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = write(tmp_path / "photos", *places)
    source = zipped(source, tmp_path / "photos.zip") if form == "zip" else source
    data, line = read(source, caplog, unlabelled=True)
    count = 10 * len(places)
    assert sizes(data) == [6 * count // 10, count // 5, count // 5]
    assert data.class_names == ()
    assert line.startswith(f"read {count} images, no classes, 6x8x3")


def test_images_without_labels_keep_their_splits(tmp_path: Path) -> None:
    write(tmp_path, "train/a", "test")
    assert sizes(load_image_folder(tmp_path, validation_size=3, unlabelled=True)) == [7, 3, 10]


def test_names_with_accents_apart_and_stems_that_two_files_share(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", "", count=12)
    (folder / "0.jpg").rename(folder / unicodedata.normalize("NFD", "é.jpg"))
    (folder / "1.png").write_bytes((folder / "2.jpg").read_bytes())
    rows = [f"{name},{'cat' if index % 2 else 'dog'}" for index, name in enumerate(["é", *range(2, 12)])]
    found = load_image_folder(folder, validation_size=3, labels_file=table(tmp_path, "\n".join(rows)))
    assert sum(sizes(found)) == 11
    with pytest.raises(InputError, match=r"not there, in .*: '1'"):
        load_image_folder(folder, validation_size=3, labels_file=table(tmp_path, "\n".join([*rows, "1,cat"])))


def test_a_table_with_an_open_quote_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", "")
    with pytest.raises(InputError, match=r"labels\.csv is no table"):
        load_image_folder(folder, validation_size=3, labels_file=table(tmp_path, '0.jpg,"cat\n1.jpg,dog\n'))
