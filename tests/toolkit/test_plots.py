from pathlib import Path

import numpy as np
from PIL import Image

from purify_toolkit.run_folder import RunFolder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_the_loss_curves_have_a_panel_a_stage(trained: RunFolder) -> None:
    picture = pixels(trained.path / "losses.png")
    assert picture.shape[1] > 4 * 400
    quarters = np.array_split(picture, 4, axis=1)
    assert all((quarter < 250).any(axis=2).mean() > 0.01 for quarter in quarters)


def test_the_grid_has_a_row_an_image_and_red_words_for_wrong_classes(trained: RunFolder) -> None:
    picture = pixels(trained.path / "grid.png").astype(int)
    assert picture.shape[0] > picture.shape[1]
    red = (picture[:, :, 0] > 180) & (picture[:, :, 1] < 80) & (picture[:, :, 2] < 110)
    assert red.sum() > 50
