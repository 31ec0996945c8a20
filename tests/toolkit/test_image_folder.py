import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from pillow_heif import register_heif_opener
from torchvision.datasets import ImageFolder

from helpers.images import zipped
from purify_edge.errors import InputError
from purify_edge.images.decoding import IMAGE_SUFFIXES
from purify_toolkit.data.image_folder import load_image_folder

CLASSES = ("cat", "dog")


def colour(split: str, label: int, index: int) -> tuple[int, int, int]:
    return (40 * len(split) % 256, 100 + label, index)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six training and two test images a class, 8 x 6, each of one colour that tells which it is."""
    source = tmp_path / "pets"
    for split, count in (("train", 6), ("test", 2)):
        for label, name in enumerate(CLASSES):
            (source / split / name).mkdir(parents=True)
            for index in range(count):
                image = Image.new("RGB", (6, 8), colour(split, label, index))
                image.save(source / split / name / f"{index}.png")
    return source


def test_every_image_comes_with_its_label(folder: Path) -> None:
    data = load_image_folder(folder, validation_size=4)
    assert (data.name, data.class_names) == ("pets", CLASSES)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [8, 4, 4]
    assert data.train.images.shape == (8, 3, 8, 6)
    assert data.train.images.dtype == torch.uint8
    for part in (data.train, data.validation, data.test):
        assert torch.equal(part.images[:, 1, 0, 0].long(), 100 + part.labels)
    assert sorted(data.test.images[:, 2, 0, 0].tolist()) == [0, 0, 1, 1]


def test_the_validation_part_is_always_the_same_and_shares_no_image(folder: Path) -> None:
    first, second = load_image_folder(folder, validation_size=4), load_image_folder(folder, validation_size=4)
    assert torch.equal(first.validation.images, second.validation.images)

    def pixels(images: torch.Tensor) -> set[tuple[int, ...]]:
        return {tuple(image[:, 0, 0].tolist()) for image in images}

    assert not pixels(first.train.images) & pixels(first.validation.images)
    assert len(pixels(first.train.images) | pixels(first.validation.images)) == 12


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_a_split_for_validation_is_taken_as_it_is(folder: Path, name: str) -> None:
    (folder / "test").rename(folder / name)
    (folder / "test" / "dog").mkdir(parents=True)  # a test part need not have every class
    Image.new("RGB", (6, 8)).save(folder / "test" / "dog" / "0.jpg")
    data = load_image_folder(folder, validation_size=999)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [12, 4, 1]
    assert data.test.labels.tolist() == [1]


def test_the_order_is_that_of_torchvisions_reader_shuffled(folder: Path) -> None:
    """So that a run can be resumed whose data were read by an earlier version."""
    for name in ("b/0", "b.png", "a/9"):
        path = folder / "test" / "cat" / name
        path = path.with_suffix(".png")
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 8), (1, 1, 50 + len(name) + ord(name[0]))).save(path)
    found = ImageFolder(str(folder / "test"))
    expected = [np.asarray(image)[0, 0].tolist() for image, _ in found]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    test = load_image_folder(folder, validation_size=4).test
    assert test.images[:, :, 0, 0].tolist() == [expected[index] for index in order]
    assert test.labels.tolist() == [found.targets[index] for index in order]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["0", "1", "2", "10", "11"], ["0", "1", "2", "10", "11"]),
        (["009", "10", "8"], ["8", "009", "10"]),
        (["10", "9", "9a"], ["10", "9", "9a"]),  # as torchvision: not all are numbers
        (["v10", "v2"], ["v10", "v2"]),
        (["²", "1"], ["1", "²"]),
    ],
)
@pytest.mark.parametrize("is_zip", [False, True])
def test_numbers_are_in_the_order_of_numbers(
    tmp_path: Path, names: list[str], expected: list[str], is_zip: bool
) -> None:
    for split in ("train", "test"):
        for name in names:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(2):
                pixel = (expected.index(name), 100, index)
                Image.new("RGB", (6, 8), pixel).save(tmp_path / "data" / split / name / f"{index}.png")
    source = zipped(tmp_path / "data", tmp_path / "data.zip", "train", "test") if is_zip else tmp_path / "data"
    data = load_image_folder(source, validation_size=1)
    assert list(data.class_names) == expected
    assert torch.equal(data.test.images[:, 0, 0, 0].long(), data.test.labels)


def junk(top: Path) -> None:
    """Put into a folder what file managers, notebooks and macOS leave in one, none of which is an image to train on."""
    image = (top / "train" / "cat" / "0.png").read_bytes()
    for place in ("train/.ipynb_checkpoints/0.png", "train/cat/.thumbnails/0.png", "train/__MACOSX/cat/0.png"):
        (top / place).parent.mkdir(parents=True)
        (top / place).write_bytes(image)
    (top / "train" / "cat" / "._0.png").write_bytes(b"\0\5\x16\7 AppleDouble")
    (top / "train" / ".DS_Store").write_bytes(b"")
    (top / "train" / "Thumbs.db").write_bytes(b"")
    (top / "train" / "readme.md").write_text("cats and dogs")
    (top / "train" / "loose.png").write_bytes(image)


@pytest.mark.parametrize("form", ["folder", "zip", "zip with one top folder"])
def test_what_is_no_image_of_a_class_is_passed_over_and_counted(
    folder: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = load_image_folder(folder, validation_size=4)
    junk(folder)
    source = folder
    if form == "zip":
        source = zipped(folder, folder.parent / "pets.zip", "train", "test")
    elif form == "zip with one top folder":
        source = zipped(folder.parent, folder.parent / "pets.zip", "pets")
    with caplog.at_level("INFO", "purify_edge"):
        found = load_image_folder(source, validation_size=4)
    assert (found.class_names, found.sha256()) == (CLASSES, expected.sha256())
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("read 16 images, 2 classes, 8x6x3, skipped ")
    assert "in no class's folder 1), " in line
    assert f"{source}: SPLIT/CLASS (train in 'train', test in 'test'); 8 to train on, 4 for validation (from" in line


@pytest.mark.parametrize("suffix", [*sorted(IMAGE_SUFFIXES), ".JPEG"])
def test_every_format_of_the_device_is_trained_on(folder: Path, suffix: str) -> None:
    register_heif_opener()  # to write one; reading does so itself
    image = Image.new("RGB", (6, 8), colour("train", 0, 77))
    image.save(folder / "train" / "cat" / f"more{suffix}", Image.registered_extensions()[suffix.lower()])
    data = load_image_folder(folder, validation_size=4)
    assert len(data.train) + len(data.validation) == 13


def test_one_name_in_two_forms_of_unicode_is_one_class(folder: Path) -> None:
    (folder / "train" / "cat").rename(folder / "train" / "cafe\u0301")
    (folder / "train" / "caf\u00e9").mkdir()
    (folder / "train" / "cafe\u0301" / "0.png").rename(folder / "train" / "caf\u00e9" / "0.png")
    (folder / "test" / "cat").rename(folder / "test" / "caf\u00e9")
    data = load_image_folder(folder, validation_size=4)
    assert data.class_names == ("caf\u00e9", "dog")
    for part in (data.train, data.validation, data.test):
        assert torch.equal(part.images[:, 1, 0, 0].long(), 100 + part.labels)
    assert len(data.train) == 8


def test_of_two_zips_with_one_file_the_later_counts(folder: Path, tmp_path: Path) -> None:
    zipped(folder, tmp_path / "zips" / "a.zip", "train", "test")
    for path in (folder / "test" / "dog").iterdir():
        Image.new("RGB", (6, 8), (200, 101, 77)).save(path)
    zipped(folder, tmp_path / "zips" / "b.zip", "test")
    test = load_image_folder(tmp_path / "zips", validation_size=4).test
    assert test.images[test.labels == 1][:, 2].unique().tolist() == [77]
    assert len(test) == 4


def test_labels_may_be_prescribed(folder: Path) -> None:
    labels = {"dog": 0, "feline": 1, "cat": 1}
    data = load_image_folder(folder, validation_size=4, labels=labels)
    assert data.class_names == ("dog", "feline")
    assert torch.equal(data.test.images[:, 1, 0, 0].long(), 101 - data.test.labels)
    with pytest.raises(InputError, match="missing are 'cow'; not expected are 'cat'"):
        load_image_folder(folder, validation_size=4, labels={"dog": 0, "cow": 1})


def test_images_of_several_sizes_need_an_image_size(folder: Path) -> None:
    Image.new("RGB", (12, 16), (9, 9, 9)).save(folder / "train" / "dog" / "3.png")
    with pytest.raises(InputError, match=r"train/dog/3\.png is 16 x 12, others are 8 x 6; --size HEIGHTxWIDTH, or "):
        load_image_folder(folder, validation_size=4)
    data = load_image_folder(folder, validation_size=4, image_size=(4, 5))
    assert data.train.images.shape == (8, 3, 4, 5)


def damage(folder: Path, kind: str) -> Path:  # noqa: PLR0912
    image = folder / "train" / "cat" / "0.png"
    if kind == "cut":
        image.write_bytes(image.read_bytes()[:40])
    elif kind == "32 bits":
        Image.fromarray(np.full((8, 6), 0.5, np.float32)).save(image, "TIFF")
    elif kind == "no test":
        (folder / "test").rename(folder / "tests")
    elif kind == "unknown class":
        (folder / "test" / "dog").rename(folder / "test" / "cow")
    elif kind == "not UTF-8":
        for split in ("train", "test"):
            (folder / split / "dog").rename(os.fsdecode(os.fsencode(folder / split) + b"/d\xffg"))
    elif kind == "text chunk":
        info = PngImagePlugin.PngInfo()
        info.add_text("comment", "x" * 10_000_000, zip=True)
        Image.new("RGB", (6, 8)).save(image, pnginfo=info)
    elif kind == "damaged zip":
        archive = zipped(folder, folder.parent / "pets.zip", "train", "test")
        content = bytearray(archive.read_bytes())
        content[60:90] = bytes(30)
        archive.write_bytes(content)
        return archive
    elif kind == "no zip":
        archive = folder.parent / "pets.zip"
        archive.write_bytes(b"PK nothing")
        return archive
    elif kind == "nothing":
        return folder / "train" / "cat"
    elif kind == "empty class":
        (folder / "train" / "cow").mkdir()
        (folder / "train" / "cow" / "notes.txt").write_text("moo")
    elif kind == "one class":
        for split in ("train", "test"):
            (folder / split / "dog").rename(folder / f"{split} dogs")
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", r"train/cat/0\.png cannot be read as an image"),
        ("32 bits", r"train/cat/0\.png has 32-bit pixels, whose range is not known; convert it to 8 or 16 bits"),
        ("no test", "the split 'test': .*pets has none; expected SPLIT/CLASS/FILE"),
        ("unknown class", "the split 'test': the class 'cow' is not in 'train'"),
        ("one class", "there is one class only"),
        ("empty class", r"the split 'train': there is no image \(\.apng, .*\) of the class 'cow'"),
        ("not UTF-8", "is not named in UTF-8"),
        ("text chunk", r"train/cat/0\.png cannot be read as an image"),
        ("damaged zip", r"train/cat/0\.png cannot be unpacked from .*pets\.zip"),
        ("no zip", r"pets\.zip cannot be unpacked"),
        ("nothing", "holds neither a folder 'train' nor a zip"),
    ],
)
def test_what_cannot_be_used_is_named(folder: Path, kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_image_folder(damage(folder, kind), validation_size=4)


def test_a_small_folder_keeps_four_fifths_to_train_on(folder: Path) -> None:
    data = load_image_folder(folder, validation_size=2000)
    assert (len(data.train), len(data.validation)) == (10, 2)


def test_all_data_are_told_apart_from_others(folder: Path) -> None:
    first = load_image_folder(folder, validation_size=4)
    assert first.sha256() == load_image_folder(folder, validation_size=4).sha256()
    assert first.sha256() != load_image_folder(folder, validation_size=5).sha256()
    Image.new("RGB", (6, 8), (9, 9, 9)).save(folder / "test" / "cat" / "0.png")
    assert first.sha256() != load_image_folder(folder, validation_size=4).sha256()
