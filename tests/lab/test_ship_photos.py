"""The packed bundle is made anew by one command."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.trained import small_run
from lab import ship_photos
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.files import write_json


@pytest.mark.slow
def test_a_run_is_packed_to_the_same_bytes_with_its_attacked_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = small_run(tmp_path / "small", channels=3, count=40)
    write_json(run.path / "run.json", run.info | {"created": "2026-11-24T12:13:13+00:00"})
    archives = [tmp_path / "first.tar.xz", tmp_path / "second.tar.xz"]
    for archive in archives:
        ship_photos.main([str(run.path)], archive, tmp_path / "shown")
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as packed:
        packed.extractall(tmp_path / "bundle", filter="data")
    bundle = Bundle.open(tmp_path / "bundle")
    bundle.verify()
    assert bundle.manifest.name == "small"
    assert bundle.precisions("defended") == ["fp32"]
    attacked = load_golden(bundle)["adversarial"].images
    for index, pixels in enumerate(attacked):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "shown" / f"{index}.png")), pixels)

    monkeypatch.setattr(ship_photos, "LIMIT", 1000)
    with pytest.raises(SystemExit, match="more than 1,000: leave out a picture"):
        ship_photos.main([str(run.path)], archives[0], tmp_path / "shown")
