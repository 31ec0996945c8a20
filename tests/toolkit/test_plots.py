from pathlib import Path

import numpy as np
from PIL import Image

from purify_toolkit.evaluate.plots import save_accuracy_curves, save_threat_grid
from purify_toolkit.runs.folder import RunFolder
from purify_toolkit.runs.pretrained import open_run


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


def test_the_accuracy_curves_have_a_line_a_model(tmp_path: Path) -> None:
    lines = {
        "grey-box, no purifier": {0.0: (90, 100), 0.1: (0, 100), 0.5: (0, 100)},
        "white-box, purifier": {0.0: (90, 100), 0.1: (40, 100), 0.5: (10, 100)},
    }
    save_accuracy_curves(lines, tmp_path / "curves.png")
    picture = pixels(tmp_path / "curves.png").astype(int)
    assert picture.shape[0] > 400
    assert picture.shape[1] > 600
    for colour in ((31, 119, 180), (255, 127, 14)):  # matplotlib's first and second
        assert (abs(picture - colour).max(axis=2) < 12).sum() > 300


def test_the_threat_grid_shows_each_threat_attacked_and_purified(tmp_path: Path) -> None:
    run = open_run(None)
    samples, classifier, purifier = run.load_samples(), run.load_classifier(), run.load_student()
    clean, labels = samples.images[:3], samples.labels[:3]
    attacked = clean.float() / 255
    examples = {"grey-box, PGD": (clean, attacked, labels), "white-box, PGD": (clean, attacked * 0, labels)}
    save_threat_grid(classifier, purifier, examples, tuple(run.info["class_names"]), tmp_path / "grid.png", rows=2)
    picture = pixels(tmp_path / "grid.png")
    assert picture.shape[1] > 5 * 150
    assert 2 * 140 < picture.shape[0] < 500
    fifths = [part.mean() for part in np.array_split(picture[60:], 5, axis=1)]
    assert fifths[3] < min(fifths[:3])  # the attacked images of the second threat are black
