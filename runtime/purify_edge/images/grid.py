"""A picture of what the purifier did: each image as it came, purified, and the difference."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from purify_edge.images.arrays import to_8bit

GRID_IMAGES = 48
COLUMNS = 2
TILE = 128  # pixels, of the longer side
GAP = 8
LINE = 16
DIFFERENCE_GAIN = 4  # a difference of 0.125 is shown as black or white
HEADS = ("input", "purified", f"difference, times {DIFFERENCE_GAIN}")
CHANGED, CHANGED_INK = "red: purification changed this class; it need not be wrong", "firebrick"
MARK = ("Software", "purify-run --save-grid")  # text in the PNG, so that no other picture is taken for a grid


@dataclass(frozen=True)
class Tile:
    """One image: uint8 `[H, W, C]` as it came, float32 `[C, H, W]` purified, and the class said of each."""

    title: str
    image: NDArray[np.uint8]
    purified: NDArray[np.float32]
    word: str
    purified_word: str


def draw_grid(tiles: list[Tile]) -> Image.Image:
    """Draw the tiles, two in a row, under heads; under each picture its class, at the end what red means."""
    width, height = _tile_size(tiles[0])
    font = ImageFont.load_default(12)
    cell = (3 * (width + GAP) + 2 * GAP, height + 2 * LINE + 2 * GAP)
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    canvas = Image.new("RGB", (columns * cell[0] + GAP, rows * cell[1] + 2 * LINE + 3 * GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for column in range(columns):
        for index, head in enumerate(HEADS):
            x = GAP + column * cell[0] + index * (width + GAP)
            draw.text((x, GAP), _fitted(head, width, font), "grey", font)
    legend = _fitted(CHANGED, canvas.width - 2 * GAP, font)
    draw.text((GAP, canvas.height - GAP - LINE), legend, CHANGED_INK, font)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        _draw_tile(canvas, tile, GAP + column * cell[0], LINE + 2 * GAP + row * cell[1], (width, height))
    return canvas


def difference(original: NDArray[np.floating[Any]], purified: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return what the purifier changed, times DIFFERENCE_GAIN, about a middle grey; all three in [0, 1]."""
    return np.clip(0.5 + DIFFERENCE_GAIN * (purified - original), 0, 1)


def save_grid(tiles: list[Tile], path: Path) -> None:
    """Draw the tiles into a PNG."""
    mark = PngInfo()
    mark.add_text(*MARK)
    draw_grid(tiles).save(path, format="PNG", pnginfo=mark)


def is_grid(path: Path) -> bool:
    """Return whether a file was written by `save_grid`."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.info.get(MARK[0]) == MARK[1]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _tile_size(tile: Tile) -> tuple[int, int]:
    height, width = tile.image.shape[:2]
    scale = TILE / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _draw_tile(canvas: Image.Image, tile: Tile, left: int, top: int, size: tuple[int, int]) -> None:
    font = ImageFont.load_default(12)
    draw = ImageDraw.Draw(canvas)
    original = tile.image.astype(np.float32).transpose(2, 0, 1) / 255
    colour = "black" if tile.word == tile.purified_word else CHANGED_INK
    pictures: list[tuple[NDArray[np.floating[Any]], str, str]] = [
        (original, tile.word, colour),
        (tile.purified, tile.purified_word, "black"),
        (difference(original, tile.purified), "", "black"),
    ]
    draw.text((left, top), _fitted(tile.title, 3 * size[0], font), "black", font)
    for index, (pixels, caption, ink) in enumerate(pictures):
        x = left + index * (size[0] + GAP)
        canvas.paste(to_8bit(pixels).convert("RGB").resize(size, Image.Resampling.NEAREST), (x, top + LINE))
        draw.text((x, top + LINE + size[1] + 1), _fitted(caption, size[0], font), ink, font)


def _fitted(text: str, width: int, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    """Return the text, its end cut off where it would be wider than `width` pixels."""
    kept = text[:width]  # few letters are narrower than a pixel, and a name may be long
    if kept == text and font.getlength(text) <= width:
        return text
    while kept and font.getlength(f"{kept}…") > width:
        kept = kept[:-1]
    return f"{kept}…"
