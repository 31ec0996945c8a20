from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from purify_edge.images.grid import GAP, HEADS, LINE, TILE, Tile, _fitted, draw_grid, is_grid, save_grid

RED = ImageColor.getrgb("firebrick")


def tile(channels: int, purified_word: str = "cat") -> Tile:
    image = np.full((28, 28, channels), 128, np.uint8)
    return Tile("a.png", image, np.full((channels, 28, 28), 0.5, np.float32), "cat", purified_word)


def reds(picture: Image.Image) -> np.ndarray:
    """The rows `[N]` in which there is a red pixel."""
    return np.flatnonzero((np.asarray(picture) == RED).all(axis=2).any(axis=1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 3])
def test_each_column_has_a_head(channels: int, count: int) -> None:
    picture = np.asarray(draw_grid([tile(channels)] * count))
    for column in range(len(HEADS) * min(count, 2)):
        cell, index = divmod(column, len(HEADS))
        x = GAP + cell * (3 * (TILE + GAP) + 2 * GAP) + index * (TILE + GAP)
        assert (picture[GAP : GAP + LINE, x : x + TILE] < 255).any()
        assert (picture[: GAP + LINE, x + TILE : x + TILE + GAP] == 255).all()  # no head runs into the next, or is cut


def test_each_row_shows_the_image_what_was_purified_and_four_times_their_difference() -> None:
    values = (64, 128, 120)
    flat = [np.full((20, 10, 3), value, np.uint8) for value in values]
    tiles = [Tile("a.png", image, np.full((3, 20, 10), 0.5, np.float32), "cat", "cat") for image in flat]
    picture = np.asarray(draw_grid(tiles)).astype(int)
    width = TILE // 2
    for number, value in enumerate(values):
        row, column = divmod(number, 2)
        left, top = GAP + column * (3 * (width + GAP) + 2 * GAP), 2 * (LINE + GAP) + row * (TILE + 2 * LINE + 2 * GAP)
        difference = min(255, 127.5 + 4 * (127.5 - value))
        for index, level in enumerate((value, 127.5, difference)):
            x = left + index * (width + GAP)
            assert np.abs(picture[top : top + TILE, x : x + width] - level).max() <= 1
            assert (picture[top : top + TILE, x + width : x + width + GAP] == 255).all()


def test_a_class_whose_name_is_too_long_is_cut() -> None:
    picture = np.asarray(draw_grid([tile(1, "a very long name of a class, longer than its picture")]))
    caption = picture[2 * (LINE + GAP) + TILE :][:LINE, GAP + TILE + GAP :]
    assert (caption[:, :TILE] < 255).any()
    assert (caption[:, TILE : TILE + GAP] == 255).all()


def test_what_red_means_stands_at_the_end_and_nothing_else_is_red_without_a_change() -> None:
    picture = draw_grid([tile(3)])
    assert reds(picture).min() >= picture.height - GAP - LINE
    changed = draw_grid([tile(3, "dog")])
    assert reds(changed).min() < picture.height - GAP - LINE


def test_a_grid_is_known_from_other_pictures(tmp_path: Path) -> None:
    save_grid([tile(1)], tmp_path / "grid.png")
    draw_grid([tile(1)]).save(tmp_path / "other.png")
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "torn.png").write_bytes((tmp_path / "grid.png").read_bytes()[:30])
    found = {path.name: is_grid(path) for path in tmp_path.iterdir()}
    assert found == {"grid.png": True, "other.png": False, "text.png": False, "torn.png": False}
    assert not is_grid(tmp_path / "absent.png")


def test_of_a_long_title_only_what_could_fit_is_measured() -> None:
    measured = []

    class Font:
        def getlength(self, text: str) -> float:
            measured.append(len(text))
            return 6 * len(text)

    assert _fitted("n" * 60_000, 100, Font()) == "n" * 15 + "…"  # type: ignore[arg-type]
    assert max(measured) <= 101
