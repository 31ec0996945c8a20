"""Fashion-MNIST's own files, packed or not, and their checksums."""

import gzip
import os
import shutil
from pathlib import Path

import pytest
import torch

from helpers.small_data import TEST, TRAIN, VALIDATION
from purify_edge.errors import InputError
from purify_toolkit.data.datasets import load_data
from purify_toolkit.runs.pretrained import open_run


def test_idx_files_may_be_packed(small_data: Path, tmp_path: Path) -> None:
    for file in small_data.iterdir():
        (tmp_path / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    loaded = load_data("fashion-mnist", tmp_path, validation_size=VALIDATION)
    together = torch.cat([loaded.train.images, loaded.validation.images, loaded.test.images])
    assert torch.equal(together, open_run(None).load_samples().images[: TRAIN + TEST])
    assert len(loaded.train) == TRAIN - VALIDATION


@pytest.mark.parametrize("damage", ["flipped", "not gzip", "corrupt gzip"])
def test_an_idx_file_with_another_checksum_is_refused(small_data: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(small_data, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "train-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    if damage == "flipped":
        path.write_bytes(content)
    else:
        path.unlink()
        packed = bytearray(gzip.compress(bytes(content)))
        packed[200] ^= 255
        (tmp_path / f"{path.name}.gz").write_bytes(b"nonsense" if damage == "not gzip" else packed)
    message = r"train-images-idx3-ubyte.*(is not the original: expected SHA-256|cannot be read)"
    with pytest.raises(InputError, match=message):
        load_data("fashion-mnist", tmp_path, validation_size=VALIDATION)


@pytest.mark.skipif("PURIFY_TEST_DATA" not in os.environ, reason="PURIFY_TEST_DATA names no folder with Fashion-MNIST")
def test_all_70000_original_images_are_read() -> None:
    loaded = load_data("fashion-mnist", Path(os.environ["PURIFY_TEST_DATA"]), validation_size=5000)
    assert [len(part) for part in (loaded.train, loaded.validation, loaded.test)] == [55000, 5000, 10000]
    assert loaded.sha256() == "22593a793459de87368920941aa0962a139688ddf9b5fbe684c600dba6e2db66"  # what runs note
    labels = torch.cat([loaded.train.labels, loaded.validation.labels])
    assert torch.bincount(labels).tolist() == [6000] * 10
    assert torch.bincount(loaded.test.labels).tolist() == [1000] * 10
    samples = open_run(None).load_samples()
    assert torch.equal(samples.images, loaded.test.images[samples.indices])
    assert torch.equal(samples.labels, loaded.test.labels[samples.indices])
