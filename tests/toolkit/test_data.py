import gzip
import os
import shutil
from pathlib import Path

import pytest
import torch

from helpers.small_data import TRAIN, VALIDATION
from purify_toolkit import data
from purify_toolkit.data import FASHION_MNIST_CLASSES, load_fashion_mnist
from purify_toolkit.errors import InputError, MissingError
from purify_toolkit.pretrained import open_run


def test_the_three_parts_share_no_image(small_data: Path) -> None:
    loaded = load_fashion_mnist(small_data, validation_size=VALIDATION)
    assert [len(part) for part in (loaded.train, loaded.validation, loaded.test)] == [
        TRAIN - VALIDATION,
        VALIDATION,
        200,
    ]
    together = torch.cat([loaded.train.images, loaded.validation.images, loaded.test.images])
    assert torch.equal(together, open_run(None).load_samples().images)
    assert loaded.train.images.dtype == torch.uint8
    assert loaded.train.images.shape[1:] == (1, 28, 28)
    assert loaded.class_names == FASHION_MNIST_CLASSES


def test_mean_and_deviation_are_those_of_the_training_pixels(small_data: Path) -> None:
    loaded = load_fashion_mnist(small_data, validation_size=VALIDATION)
    mean, std = loaded.mean_std()
    pixels = loaded.train.images.double() / 255
    assert mean == pytest.approx([pixels.mean().item()])
    assert std == pytest.approx([pixels.std().item()])


def test_limiting_takes_the_first_of_each_part(small_data: Path) -> None:
    loaded = load_fashion_mnist(small_data, validation_size=VALIDATION)
    limited = loaded.limited(7)
    assert [len(part) for part in (limited.train, limited.validation, limited.test)] == [7, 7, 7]
    assert torch.equal(limited.test.images, loaded.test.images[:7])


@pytest.mark.parametrize("layout", ["plain", "gzip", "torchvision"])
def test_every_layout_of_the_files_is_found(small_data: Path, tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "FashionMNIST" / "raw" if layout == "torchvision" else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    for file in small_data.iterdir():
        if layout == "gzip":
            (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        else:
            shutil.copy(file, folder)
    assert len(load_fashion_mnist(tmp_path, validation_size=VALIDATION).test) == 200


@pytest.mark.parametrize("damage", ["flipped", "cut", "not gzip", "corrupt gzip"])
def test_a_file_with_another_checksum_is_refused(small_data: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(small_data, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "train-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    if damage == "flipped":
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:5000])
    else:
        path.unlink()
        packed = bytearray(gzip.compress(bytes(content)))
        packed[200] ^= 255
        (tmp_path / f"{path.name}.gz").write_bytes(b"nonsense" if damage == "not gzip" else packed)
    with pytest.raises(
        InputError, match=r"train-images-idx3-ubyte.*(is not the original: expected SHA-256|cannot be read)"
    ):
        load_fashion_mnist(tmp_path, validation_size=VALIDATION)


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not hold Fashion-MNIST: expected train-images-idx3-ubyte"):
        load_fashion_mnist(tmp_path, validation_size=1)


@pytest.mark.parametrize("size", [0, TRAIN])
def test_a_validation_part_that_leaves_nothing_is_refused(small_data: Path, size: int) -> None:
    with pytest.raises(InputError, match="validation_size must be between 1 and"):
        load_fashion_mnist(small_data, validation_size=size)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, an empty cache, no Debian package; the cache's folder."""
    from torchvision.datasets import FashionMNIST

    monkeypatch.setenv("PURIFY_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://localhost:9/"])
    return tmp_path / "cache"


def test_where_nothing_can_be_had_the_three_ways_are_told(offline: Path) -> None:
    with pytest.raises(MissingError) as caught:
        load_fashion_mnist(None, validation_size=1)
    message = str(caught.value)
    assert "--data DIR" in message
    assert f"download into {offline}" in message
    assert "apt-get install dataset-fashion-mnist" in message
    assert caught.value.exit_code == 3


def test_without_a_download_debians_package_serves(offline: Path, small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "debian").mkdir()
    for file in small_data.iterdir():
        (tmp_path / "debian" / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    assert len(load_fashion_mnist(None, validation_size=VALIDATION).test) == 200
    assert not list(offline.rglob("*-ubyte"))


def test_the_cache_comes_first(offline: Path, small_data: Path) -> None:
    shutil.copytree(small_data, offline / "FashionMNIST" / "raw")
    assert len(load_fashion_mnist(None, validation_size=VALIDATION).test) == 200


@pytest.mark.skipif("PURIFY_TEST_DATA" not in os.environ, reason="PURIFY_TEST_DATA names no folder with Fashion-MNIST")
def test_all_70000_original_images_are_read() -> None:
    loaded = load_fashion_mnist(Path(os.environ["PURIFY_TEST_DATA"]), validation_size=5000)
    assert [len(part) for part in (loaded.train, loaded.validation, loaded.test)] == [55000, 5000, 10000]
    labels = torch.cat([loaded.train.labels, loaded.validation.labels])
    assert torch.bincount(labels).tolist() == [6000] * 10
    assert torch.bincount(loaded.test.labels).tolist() == [1000] * 10
    samples = open_run(None).load_samples()
    assert torch.equal(samples.images, loaded.test.images[samples.indices])
    assert torch.equal(samples.labels, loaded.test.labels[samples.indices])
