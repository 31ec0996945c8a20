"""The study of INT8's calibration images."""

import re
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from lab.studies import int8_calibration
from purify_edge.errors import InputError
from purify_export.convert import int8_from_fp32
from purify_export.convert.amounts import IMAGES
from purify_toolkit.runs.folder import RunFolder

ROW = re.compile(r"\| ([a-z0-9 ]+) \| (\d+\.\d\d)% \| (\d+\.\d\d)% \| (\d\.\d\d) \|")
CALIBRATE, JUDGE = 8, 16


@pytest.mark.slow
def test_each_way_of_calibrating_is_judged_on_the_same_other_images(
    shipped: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The attack is replaced by brighter images, which takes no time: it is the study's bookkeeping that is tested."""
    calibrated: list[np.ndarray] = []
    quantise = int8_from_fp32.int8_from_fp32

    def recording(model: object, images: np.ndarray) -> object:
        calibrated.append(images)
        return quantise(model, images)  # type: ignore[arg-type]

    def brighter(classifier: nn.Module, images_u8: Tensor, *_: object, **__: object) -> Tensor:
        return (images_u8.float() * 0.75 + 64).to(images_u8.dtype)

    monkeypatch.setattr("purify_export.convert.int8_search.int8_from_fp32", recording)
    monkeypatch.setattr(int8_calibration, "attacked", brighter)
    int8_calibration.main(["--calibrate", str(CALIBRATE), "--judge", str(JUDGE)])
    header, _, *lines = capsys.readouterr().out.splitlines()
    assert header == (
        f"| calibrated on {CALIBRATE} images | clean, n = {JUDGE} | adversarial, n = {JUDGE} | p, adversarial |"
    )
    rows = [match.groups() for line in lines if (match := ROW.fullmatch(line))]
    assert [row[0] for row in rows] == ["float32", "clean", "half attacked", "attacked"]
    assert all(float(share) * JUDGE / 100 == round(float(share) * JUDGE / 100, 2) for row in rows for share in row[1:3])
    assert rows[2][3] == "1.00"  # itself
    clean = shipped.load_samples().images[IMAGES:][:CALIBRATE].float().div(255).numpy()
    purifiers = calibrated[::2]  # each pair's purifier, then its classifier, which also takes what comes purified
    for images, attacked in zip(purifiers, (0, CALIBRATE // 2, CALIBRATE), strict=True):
        assert len(images) == CALIBRATE
        same = [np.array_equal(*pair) for pair in zip(images, clean, strict=True)]
        assert same == [True] * (CALIBRATE - attacked) + [False] * attacked
    assert [len(images) for images in calibrated[1::2]] == [2 * CALIBRATE] * 3


def test_more_images_than_there_are_are_refused_before_any_work(shipped: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 744 images beside the golden set, 1488 are asked for: fewer by"):
        int8_calibration.main(["--calibrate", "1000"])
