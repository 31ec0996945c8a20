import gzip
import os
import pickle
import shutil
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from helpers.images import zipped
from helpers.own_formats import PHOTOGRAPHS, SIGNS, TRAIN, Written, publish, write
from helpers.small_data import VALIDATION
from purify_edge.errors import InputError, MissingError
from purify_toolkit.data import datasets
from purify_toolkit.data.datasets import DATASETS, load_data
from purify_toolkit.data.gtsrb import by_sign
from purify_toolkit.data.splits import Split

NAMES = list(DATASETS)
ORDERED = [name for name in NAMES if name != "gtsrb"]
FOLDERS = {
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "svhn": "SVHN",
    "gtsrb": "gtsrb",
}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, an empty cache, no Debian package; the cache's folder."""
    nowhere = urllib.request.ProxyHandler(dict.fromkeys(("http", "https"), "http://localhost:9"))
    monkeypatch.setattr(urllib.request, "_opener", urllib.request.build_opener(nowhere))
    monkeypatch.setenv("PURIFY_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "PACKAGES", {"fashion-mnist": (tmp_path / "debian", "apt-get install a package")})
    return tmp_path / "cache"


@pytest.fixture
def written(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """The dataset that the test's parameter names, in its own format."""
    return write(request.param, tmp_path / "own", monkeypatch)


def same(split: Split, images: np.ndarray, labels: np.ndarray) -> bool:
    assert split.images.dtype == torch.uint8
    assert split.labels.dtype == torch.int64
    assert split.images.is_contiguous()
    return np.array_equal(split.images.numpy(), images) and np.array_equal(split.labels.numpy(), labels)


@pytest.mark.parametrize(("written", "name"), [(name, name) for name in ORDERED], indirect=["written"])
def test_a_datasets_own_files_are_read_in_their_order(written: Written, name: str) -> None:
    data = load_data(name, written.root, validation_size=7)
    assert (data.name, data.class_names) == (name, DATASETS[name].classes)
    kept = TRAIN - 7
    assert same(data.train, written.train[:kept], written.train_labels[:kept])
    assert same(data.validation, written.train[kept:], written.train_labels[kept:])
    assert same(data.test, written.test, written.test_labels)


@pytest.mark.parametrize("written", ["gtsrb"], indirect=True)
def test_no_traffic_sign_is_in_two_parts(written: Written) -> None:
    data = load_data("gtsrb", written.root, validation_size=40)
    assert (data.name, data.class_names[14]) == ("gtsrb", "Stop")
    assert same(data.test, written.test, written.test_labels)
    # 40 needs 14 signs of 3 photographs, of which 2 are in neither part
    assert [len(data.train), len(data.validation)] == [43 * SIGNS * PHOTOGRAPHS - 42, 40]
    signs = []
    for part in (data.train, data.validation):
        assert part.images.shape[1:] == (3, 32, 32)
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)
        assert len(part.labels[:20].unique()) > 5  # not class by class
        signs.append({tuple(image[:2, 0, 0].tolist()) for image in part.images})
    assert not signs[0] & signs[1]
    assert torch.equal(data.validation.images, load_data("gtsrb", written.root, validation_size=40).validation.images)


@pytest.mark.parametrize("written", ["gtsrb"], indirect=True)
def test_traffic_signs_take_the_size_asked_for(written: Written) -> None:
    data = load_data("gtsrb", written.root, validation_size=40, image_size=(16, 24), channels=3)
    assert data.train.images.shape[1:] == data.test.images.shape[1:] == (3, 16, 24)
    expected = Image.fromarray(written.test[0].transpose(1, 2, 0)).resize((24, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(data.test.images[0].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_a_sign_is_not_divided() -> None:
    paths = [
        Path(f"{label:05}/{sign:05}_{number:05}.ppm") for label in range(2) for sign in range(2) for number in range(3)
    ]
    train, validation = by_sign(paths, 3)
    assert len(train) == 9
    assert len({(paths[index].parent, paths[index].name[:5]) for index in validation.tolist()}) == 1
    with pytest.raises(InputError, match="validation_size 10 leaves none of the 4 signs"):
        by_sign(paths, 10)


@pytest.mark.parametrize(("written", "name"), [(name, name) for name in NAMES], indirect=["written"])
def test_the_folder_itself_serves_as_well(written: Written, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    above = load_data(name, written.root, validation_size=7)
    inside = load_data(name, written.root / FOLDERS[name], validation_size=7)
    monkeypatch.chdir(written.root / FOLDERS[name])
    assert above.sha256() == inside.sha256() == load_data(name, Path(), validation_size=7).sha256()


def test_the_order_of_the_classes_is_the_official_one() -> None:
    assert DATASETS["fashion-mnist"].classes == tuple(torchvision.datasets.FashionMNIST.classes)
    assert DATASETS["mnist"].classes == tuple(name[0] for name in torchvision.datasets.MNIST.classes)
    assert DATASETS["svhn"].classes == tuple("0123456789")
    for name, count in (("cifar10", 10), ("cifar100", 100)):
        assert len(set(DATASETS[name].classes)) == count
        assert list(DATASETS[name].classes) == sorted(DATASETS[name].classes)
    signs = DATASETS["gtsrb"].classes
    assert len(set(signs)) == 43
    named = {1: "Speed limit (30km/h)", 13: "Yield", 17: "No entry", 25: "Road work", 40: "Roundabout mandatory"}
    assert all(signs[label] == name for label, name in named.items())


def as_images(written: Written, name: str, *, numbers: bool = False) -> Path:
    """The images of both parts as `SPLIT/CLASS/FILE`, at least two of every class."""
    folder = written.root.parent / "images"
    classes = [f"{n:05}" for n in range(43)] if numbers else [n.replace("/", "_") for n in DATASETS[name].classes]
    for split, images in (("train", written.train), ("test", written.test)):
        for label, class_name in enumerate(classes):
            (folder / split / class_name).mkdir(parents=True)
            for index in range(2):
                pixels = np.array(images[(2 * label + index) % len(images)])
                pixels[:, 0, 0] = label
                image = Image.fromarray(pixels.transpose(1, 2, 0).squeeze())
                image.save(folder / split / class_name / f"{index}.png")
    return folder


def zips(folder: Path) -> Path:
    """The same images in a zip a split."""
    target = folder.with_name("zips")
    for split in ("train", "test"):
        zipped(folder, target / f"any-{split}.zip", split)
    return target


@pytest.mark.parametrize(
    ("written", "name", "layout"),
    [(name, name, layout) for name in NAMES for layout in ("folder", "zips")] + [("gtsrb", "gtsrb", "numbers")],
    indirect=["written"],
)
def test_images_take_the_datasets_own_labels(written: Written, name: str, layout: str) -> None:
    folder = as_images(written, name, numbers=layout == "numbers")
    data = load_data(name, zips(folder) if layout == "zips" else folder, validation_size=7)
    assert (data.name, data.class_names) == (name, DATASETS[name].classes)
    count = 2 * len(data.class_names)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [count - 7, 7, count]
    for part in (data.train, data.validation, data.test):
        assert part.images.shape[1:] == DATASETS[name].shape
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)
    assert sorted(data.test.labels.tolist()) == sorted([*range(len(data.class_names))] * 2)


@pytest.mark.parametrize("written", ["cifar10"], indirect=True)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("added", "other classes than 'airplane'.* and 5 more: missing are none; not expected are 'zebra'"),
        ("size", r"the images are 28 x 28, those of CIFAR-10 are 32 x 32"),
        ("another size", r"is 28 x 28, others are 32 x 32"),
    ],
)
def test_other_images_are_not_taken_for_the_dataset(written: Written, change: str, message: str) -> None:
    folder = as_images(written, "cifar10")
    if change == "added":
        shutil.copytree(folder / "train" / "ship", folder / "train" / "zebra")
    else:
        for path in folder.rglob("*.png") if change == "size" else [folder / "test" / "ship" / "1.png"]:
            Image.new("RGB", (28, 28)).save(path)
    with pytest.raises(InputError, match=message):
        load_data("cifar10", folder, validation_size=7)


@pytest.mark.parametrize(
    ("written", "name", "file"),
    [
        ("mnist", "mnist", "MNIST/raw/t10k-labels-idx1-ubyte"),
        ("cifar10", "cifar10", "cifar-10-batches-py/data_batch_3"),
        ("cifar100", "cifar100", "cifar-100-python/meta"),
        ("svhn", "svhn", "SVHN/test_32x32.mat"),
        ("gtsrb", "gtsrb", "gtsrb/GTSRB/Training/00007/00001_00002.ppm"),
        ("gtsrb", "gtsrb", "gtsrb/GTSRB/Final_Test/Images/00003.ppm"),
    ],
    indirect=["written"],
)
def test_a_damaged_file_is_named(written: Written, name: str, file: str) -> None:
    path = written.root / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"{path.name}.*(remove|fetch it again)"):
        load_data(name, written.root, validation_size=7)


@pytest.mark.parametrize("written", ["cifar10"], indirect=True)
def test_a_batch_of_another_checksum_is_not_unpickled(written: Written, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    (written.root / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="MD5 sum is wrong of test_batch; remove the folder"):
        load_data("cifar10", written.root, validation_size=7)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("written", ["gtsrb"], indirect=True)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no class", "expected the folders 00000 to 00042 in GTSRB/Training"),
        ("no photograph", "cannot be read .*00042.*fetch it again"),
        ("no column", "cannot be read .*ClassId.*fetch it again"),
    ],
)
def test_an_incomplete_gtsrb_is_refused(written: Written, change: str, message: str) -> None:
    folder = written.root / "gtsrb" / "GTSRB" / "Training" / "00042"
    if change == "no column":
        csv = written.root / "gtsrb" / "GT-final_test.csv"
        csv.write_text(csv.read_text().replace(";ClassId", ""))
    else:
        shutil.rmtree(folder)
        if change == "no photograph":
            folder.mkdir()
    with pytest.raises(InputError, match=message):
        load_data("gtsrb", written.root, validation_size=7)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"does not hold {DATASETS[name].title}: expected .*SPLIT/CLASS/FILE"):
        load_data(name, tmp_path, validation_size=1)


def test_what_a_known_dataset_settles_cannot_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the image_size of CIFAR-10 is \(32, 32\), got \(64, 64\)"):
        load_data("cifar10", tmp_path, validation_size=1, image_size=(64, 64))
    with pytest.raises(InputError, match="the channels of GTSRB is 3, got 1"):
        load_data("gtsrb", tmp_path, validation_size=1, channels=1)
    with pytest.raises(InputError, match=r"no dataset 'imagenet'; known are mnist, .*image-folder"):
        load_data("imagenet", tmp_path, validation_size=1)
    with pytest.raises(InputError, match="the recipe is for your own images: --data names"):
        load_data("image-folder", None, validation_size=1)


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_can_be_had_the_ways_out_are_told(name: str, offline: Path) -> None:
    with pytest.raises(MissingError) as caught:
        load_data(name, None, validation_size=1)
    message = str(caught.value)
    assert message.startswith(f"{DATASETS[name].title} could not be downloaded (")
    assert f"--data DIR with {DATASETS[name].files}" in message
    assert "SPLIT/CLASS/FILE" in message
    assert f"download into {offline}" in message
    assert ("apt-get install" in message) == (name == "fashion-mnist")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("written", "name"), [(name, name) for name in NAMES], indirect=["written"])
def test_the_cache_comes_first(written: Written, name: str, offline: Path) -> None:
    shutil.copytree(written.root, offline)
    data = load_data(name, None, validation_size=7)
    assert data.sha256() == load_data(name, written.root, validation_size=7).sha256()


@pytest.mark.parametrize("written", ["mnist"], indirect=True)
def test_nothing_is_fetched_where_the_cache_is_complete(
    written: Written, offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where its files are packed, which torchvision by itself would download once more."""
    (offline / "MNIST" / "raw").mkdir(parents=True)
    for path in (written.root / "MNIST" / "raw").iterdir():
        (offline / "MNIST" / "raw" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setattr(urllib.request, "build_opener", lambda *_: pytest.fail("the network was used"))
    data = load_data("mnist", None, validation_size=7)
    assert same(data.test, written.test, written.test_labels)


@pytest.fixture
def server(offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which its files are served; the cache is empty."""
    monkeypatch.setattr(urllib.request, "_opener", urllib.request.build_opener(urllib.request.ProxyHandler({})))
    (tmp_path / "served").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        yield tmp_path / "served", f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
def test_what_torchvision_downloads_is_read(
    name: str,
    server: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = write(name, tmp_path / "own", monkeypatch).root
    publish(name, own, *server, monkeypatch)
    expected = load_data(name, own, validation_size=7).sha256()
    assert load_data(name, None, validation_size=7).sha256() == expected
    shutil.rmtree(server[0])  # the second time, the cache serves
    assert load_data(name, None, validation_size=7).sha256() == expected
    assert capsys.readouterr().out == ""  # where the results go


def test_without_a_download_debians_package_serves(offline: Path, small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "debian").mkdir()
    for file in small_data.iterdir():
        (tmp_path / "debian" / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    assert len(load_data("fashion-mnist", None, validation_size=VALIDATION).test) == 200
    assert not list(offline.rglob("*-ubyte"))
