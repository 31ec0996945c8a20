"""One rule for which files are images, at both ends; what is passed over is counted."""

import inspect
import sys
import zipfile
from pathlib import Path

import pytest

from helpers.images import png
from purify_edge.errors import InputError
from purify_edge.images.sources import open_source
from purify_edge.images.walking import PassedOver, images_below

FILES = {
    "a.png": True,
    "class/b.JFIF": True,
    "class/deep/c.pnm": True,
    "class/._a.png": False,
    ".ipynb_checkpoints/0.png": False,
    "class/.thumbnails/1.png": False,
    "__MACOSX/a.png": False,
    "Thumbs.db": False,
    "notes.txt": False,
    "README": False,
}
IMAGES = sorted(name for name, is_image in FILES.items() if is_image)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(28, 28))
    return tmp_path / "photos"


@pytest.fixture
def archive(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as file:
        for name in FILES:
            file.write(folder / name, name)
    return path


def test_a_folder_and_a_zip_of_it_hold_the_same_images(folder: Path, archive: Path) -> None:
    for argument in (folder, archive):
        (source,) = open_source(str(argument))
        assert sorted(item.place for item in source.items()) == [name.rpartition(".")[0] for name in IMAGES]
        assert source.passed.others == {".db": 1, ".txt": 1, "": 1}
        assert source.passed.hidden == 4


def test_what_is_passed_over_is_told_in_a_few_words(folder: Path) -> None:
    passed = PassedOver()
    assert [str(Path(str(file)).relative_to(folder)) for file in images_below(str(folder), passed)] == IMAGES
    assert str(passed) == "3 files of other kinds (without a suffix 1, .db 1, .txt 1), 4 hidden"
    assert not PassedOver()


@pytest.mark.parametrize("names", [(), ("a.svg", "b.psd"), (".a.png",)])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_where_there_are_no_images_that_is_an_error(tmp_path: Path, names: tuple[str, ...], kind: str) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as file:
        for name in names:
            (folder / name).write_bytes(b"x")
            file.write(folder / name, name)
    (source,) = open_source(str(folder if kind == "folder" else tmp_path / "empty.zip"))
    (item,) = source.items()
    with pytest.raises(InputError, match=r"has no images, (it is empty|only 2 files of other kinds|only 1 hidden)"):
        item.read(None)  # type: ignore[arg-type]  # it does not come to that


def test_folders_are_nested_as_deeply_as_they_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path.joinpath(*["d"] * 150)
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"x")
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack()) + 100)
        assert list(images_below(str(tmp_path), PassedOver())) == [str(folder / "a.png")]
    finally:
        sys.setrecursionlimit(limit)
