from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purify_edge.run.saving import SaveFolder, is_unfinished

BLACK = np.zeros((1, 4, 4), np.float32)


def reserve(folder: SaveFolder, *places: str) -> list[str]:
    return [str(folder.reserve(place).relative_to(folder.path)) for place in places]


def test_images_lie_in_the_folders_of_their_originals(tmp_path: Path) -> None:
    folder = SaveFolder(tmp_path / "out")
    assert reserve(folder, "a", "b/a", "b/c/a") == ["a.png", "b/a.png", "b/c/a.png"]


def test_no_two_images_take_one_name(tmp_path: Path) -> None:
    folder = SaveFolder(tmp_path)
    places = ("a", "a", "A", "a-2", "b/a", "B/a", "d.png/x", "d", "e", "e.png/y", "e.png/y")
    names = reserve(folder, *places)
    assert names == [
        *("a.png", "a-2.png", "A-3.png", "a-2-2.png", "b/a.png", "B/a-2.png"),
        *("d.png/x.png", "d-2.png", "e.png", "e.png-2/y.png", "e.png-2/y-2.png"),
    ]
    for name in names:
        folder.save(tmp_path / name, BLACK)
    assert is_unfinished(tmp_path)
    folder.close()
    assert not is_unfinished(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(names)


def test_a_place_of_many_folders_is_cut_short(tmp_path: Path) -> None:
    """Each folder costs the length of its path."""
    (name,) = reserve(SaveFolder(tmp_path), "d/" * 20_000 + "x")
    assert len(Path(name).parts) == 100
    assert name.endswith("d/x.png")


def test_names_that_were_taken_before_stay_taken(tmp_path: Path) -> None:
    taken = [str(tmp_path / "b" / "a.png"), str(tmp_path / "c.png")]
    assert reserve(SaveFolder(tmp_path, taken=taken), "b/a", "c", "c.png/x") == [
        "b/a-2.png",
        "c-2.png",
        "c.png-2/x.png",
    ]


def test_what_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SaveFolder(tmp_path)
    folder.save(tmp_path / "a.png", BLACK)

    def fail(self: Image.Image, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        folder.save(tmp_path / "a.png", BLACK)
    folder.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (4, 4)
