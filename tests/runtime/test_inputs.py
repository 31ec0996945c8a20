import io
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.images import GREY, png
from purify_edge.errors import InputError
from purify_edge.images import sources as inputs
from purify_edge.images.items import Item
from purify_edge.images.sources import Listing, Zip, open_source


def items_of(arguments: list[str]) -> list[Item]:
    return list(Listing(io.BytesIO(os.fsencode("\n".join(arguments)))).items())


def picture(level: int = 77) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (28, 28), level).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images on several levels, and what is none."""
    root = tmp_path / "photos"
    for name in ("b.png", "a.PNG", "deep/er/c.jpg", "deep/d.tiff", ".hidden.png", ".cache/e.png", "notes.txt", "f.mp4"):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture())
    return root


def names(items: list[Item], root: Path) -> list[str]:
    return [os.path.relpath(item.file, root) for item in items]


def test_a_folder_is_gone_through_sorted_with_all_below_it(folder: Path) -> None:
    (source,) = open_source(str(folder))
    items = list(source.items())
    assert names(items, folder) == ["a.PNG", "b.png", "deep/d.tiff", "deep/er/c.jpg"]
    assert [str(item.place) for item in items] == ["a", "b", "deep/d", "deep/er/c"]
    assert source.count() == 4
    assert not source.live
    assert all((item.read(GREY) == 77).all() for item in items)


def test_links_are_followed_and_no_folder_is_entered_twice(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "g.png").write_bytes(picture())
    (folder / "link").symlink_to(outside)
    (folder / "again").symlink_to(folder)  # a circle
    (folder / "self.png").symlink_to(folder / "self.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "pipe-link.png").symlink_to(folder / "pipe.png")  # reading it would wait for ever
    (source,) = open_source(str(folder))
    items = list(source.items())
    assert source.passed.others["pipes and devices"] == 2
    assert names(items, folder) == [
        "a.PNG", "b.png", "deep/d.tiff", "deep/er/c.jpg", "gone.png", "link/g.png", "self.png"
    ]  # fmt: skip
    for item in (items[4], items[6]):
        with pytest.raises(InputError, match=r"no such file|cannot be read"):
            item.read(GREY)


def test_pipes_are_images_whatever_they_are_named(tmp_path: Path) -> None:
    """Opened as a video or a zip, one without a writer would be waited for before the run begins."""
    for name in ("v.mp4", "a.zip", "b.png"):
        os.mkfifo(tmp_path / name)
        assert isinstance(open_source(str(tmp_path / name))[0], inputs.ImageFile)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "an input is empty"),
        ("²", "no such file"),
        ("9" * 5000, "File name too long"),
        ("x" * 70_000, "File name too long"),
        ("a\0b.png", "null byte"),
        ("[a\0]*", "nothing matches"),
        ("link", "cannot be read|no such file"),
    ],
)
def test_a_name_that_is_none_is_an_item_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("x" * 300)
    (item,) = (item for source in open_source(name) for item in source.items())
    with pytest.raises(InputError, match=message):
        item.read(GREY)


def test_a_camera_in_a_list_that_cannot_be_opened_does_not_end_it(folder: Path) -> None:
    pytest.importorskip("cv2")
    camera, image = items_of(["97", f"{folder}/b.png"])
    with pytest.raises(InputError, match="camera 97 cannot be opened"):
        camera.read(GREY)
    assert image.read(GREY).shape == (28, 28, 1)


def test_a_folder_that_is_gone_is_an_item_that_cannot_be_read(tmp_path: Path) -> None:
    (item,) = inputs.Folder(tmp_path / "gone").items()
    with pytest.raises(InputError, match=r"gone cannot be read \(No such file"):
        item.read(GREY)


def test_globs_are_expanded_sorted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(items_of([f"{folder}/**/*.jpg"]), folder) == ["deep/er/c.jpg"]
    assert names(items_of([f"{folder}/[ab].*"]), folder) == ["a.PNG", "b.png"]
    assert names(items_of([f"{folder}/d*"]), folder) == ["deep/d.tiff", "deep/er/c.jpg"]  # a folder that matches
    (item,) = items_of([f"{folder}/*.webp"])
    with pytest.raises(InputError, match=r"\*\.webp: nothing matches"):
        item.read(GREY)
    odd = folder / "x[1].png"
    odd.write_bytes(picture())
    monkeypatch.chdir(folder)
    assert [item.file for item in items_of(["x[1].png"])] == ["x[1].png"]  # a file of this very name comes first


def test_a_zip_is_read_without_unpacking_it(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for level, name in enumerate(("b/2.png", "a.png", "__MACOSX/._a.png", ".x.png", "notes.txt", "b/1.png")):
            archive.writestr(name, picture(level))
    (source,) = open_source(str(path))
    items = list(source.items())
    assert [item.file for item in items] == [f"{path}/{name}" for name in ("b/2.png", "a.png", "b/1.png")]
    assert [str(item.place) for item in items] == ["b/2", "a", "b/1"]
    assert [int(item.read(GREY)[0, 0, 0]) for item in items] == [0, 1, 5]
    assert source.count() == 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_zip_is_read_by_several_threads_at_once(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for level in range(200):
            archive.writestr(f"{level}.png", picture(level))
    items = list(Zip(path).items())
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda item: int(item.read(GREY)[0, 0, 0]), items)) == [*range(200)]


def test_no_member_of_a_zip_leads_outside(tmp_path: Path) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../../up.png", "/etc/root.png", "a/../../b.png", "./c.png"):
            archive.writestr(name, picture())
    assert [str(item.place) for item in Zip(path).items()] == ["up", "etc/root", "a/b", "c"]


def test_bad_zips_and_members_are_items_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bad.zip"
    path.write_bytes(b"PK\x03\x04 nonsense")
    (item,) = Zip(path).items()
    assert Zip(path).count() == 1
    with pytest.raises(InputError, match=r"bad\.zip cannot be read as a zip"):
        item.read(GREY)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(3_000_000))
        archive.writestr("text.png", b"text")
        archive.writestr("good.png", picture())
    monkeypatch.setattr(inputs, "MAX_FILE_BYTES", 2_000_000)
    bomb, text, good = Zip(path).items()
    with pytest.raises(InputError, match=r"bad\.zip/bomb\.png has 3,000,000 bytes, more than 2,000,000"):
        bomb.read(GREY)
    with pytest.raises(InputError, match=r"bad\.zip/text\.png cannot be read as an image"):
        text.read(GREY)
    assert good.read(GREY).shape == (28, 28, 1)


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", picture())
        archive.writestr("b/c.png", png(28, 1))
    return buffer.getvalue()


ZIP = _zip()


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(ZIP) - 1), st.binary(min_size=1, max_size=4)), min_size=1, max_size=8))
@example([(ZIP.rindex(b"a.png"), b"\0")])
def test_damaged_zips_are_read_or_refused_in_words(tmp_path_factory: pytest.TempPathFactory, edits: list) -> None:
    content = bytearray(ZIP)
    for where, what in edits:
        content[where : where + len(what)] = what
    path = tmp_path_factory.getbasetemp() / "fuzz.zip"
    path.write_bytes(content)
    for item in Zip(path).items():
        try:
            assert item.read(GREY).shape == (28, 28, 1)
        except InputError as error:
            assert "fuzz.zip" in str(error)


def test_names_on_standard_input_are_taken_as_they_come(folder: Path) -> None:
    read, write = os.pipe()
    listing = Listing(os.fdopen(read, "rb"))
    assert listing.live
    assert listing.count() is None
    items = listing.items()
    with os.fdopen(write, "wb", buffering=0) as stream:
        stream.write(f"{folder}/b.png\n\n-\n".encode())
        assert next(items).file == f"{folder}/b.png"
        stream.write(f"{folder}/deep\r\nabsent.png\n".encode())
    rest = list(items)
    assert names(rest[:-1], folder) == ["deep/d.tiff", "deep/er/c.jpg"]
    with pytest.raises(InputError, match=r"absent\.png: no such file"):
        rest[-1].read(GREY)


def test_a_list_names_no_pipeline_which_could_write_files(tmp_path: Path) -> None:
    there = tmp_path / "a ! b.png"
    there.write_bytes(picture())
    written = tmp_path / "written"
    refused, file = items_of([f"videotestsrc num-buffers=1 ! filesink location={written}", str(there)])
    with pytest.raises(InputError, match="give it as an argument"):
        refused.read(GREY)
    assert file.read(GREY).shape == (28, 28, 1)
    assert not written.exists()
