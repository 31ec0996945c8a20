"""Small datasets of random images in the formats in which their makers publish them, checksums included."""

import gzip
import hashlib
import pickle
import shutil
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from purify_toolkit.data import idx
from purify_toolkit.data.datasets import DATASETS

TRAIN, TEST = 30, 12
SIGNS, PHOTOGRAPHS = 2, 3  # of GTSRB, a class


@dataclass(frozen=True)
class Written:
    """What was written: images `[N, C, H, W]` and labels of the two parts, in the files' order."""

    root: Path
    train: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test: NDArray[np.uint8]
    test_labels: NDArray[np.int64]

    def parts(self, *names: str) -> Iterable[tuple[str, NDArray[np.uint8], NDArray[np.int64]]]:
        """Images and labels of training and test, under these names."""
        return zip(names, (self.train, self.test), (self.train_labels, self.test_labels), strict=True)


def write(name: str, root: Path, patch: pytest.MonkeyPatch) -> Written:
    """The dataset `name` where torchvision would put it under `root`; from now on these files are the originals."""
    source, generator = DATASETS[name], np.random.default_rng(0)
    count = len(source.classes)
    images = [generator.integers(0, 256, (n, *source.shape), np.uint8) for n in (TRAIN, TEST)]
    labels = [np.arange(n) * 7 % count for n in (TRAIN, TEST)]
    written = Written(root, images[0], labels[0], images[1], labels[1])
    WRITERS[name](written, patch)
    return written


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_idx(kind: str, written: Written, patch: pytest.MonkeyPatch) -> None:
    folder = written.root / kind / "raw"
    folder.mkdir(parents=True)
    for part, images, labels in written.parts("train", "t10k"):
        pixels = struct.pack(">4I", 2051, len(images), 28, 28) + images.tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(pixels)
        classes = struct.pack(">2I", 2049, len(labels)) + labels.astype(np.uint8).tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(classes)
    patch.setitem(
        idx.SHA256, kind, {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    )


def write_cifar(kind: str, written: Written, patch: pytest.MonkeyPatch) -> None:
    """Pickled batches; the training part in as many files as the original."""
    of = getattr(torchvision.datasets, kind)
    folder = written.root / of.base_folder
    folder.mkdir(parents=True)
    key = "labels" if kind == "CIFAR10" else "fine_labels"
    for attribute, images, labels in written.parts("train_list", "test_list"):
        files = getattr(of, attribute)
        for (file, _), pixels, classes in zip(
            files, np.array_split(images, len(files)), np.array_split(labels, len(files)), strict=True
        ):
            (folder / file).write_bytes(pickle.dumps({"data": pixels.reshape(-1, 3072), key: classes.tolist()}))
        patch.setattr(of, attribute, [[file, md5(folder / file)] for file, _ in files])
    meta = folder / of.meta["filename"]
    meta.write_bytes(pickle.dumps({of.meta["key"]: list(DATASETS[kind.lower()].classes)}))
    patch.setattr(of, "meta", of.meta | {"md5": md5(meta)})


def write_svhn(written: Written, patch: pytest.MonkeyPatch) -> None:
    """`X` is [H, W, C, N]; the label of the digit 0 is 10."""
    folder = written.root / "SVHN"
    folder.mkdir(parents=True)
    sums = dict(torchvision.datasets.SVHN.split_list)
    for part, images, labels in written.parts("train", "test"):
        url, file, _ = sums[part]
        classes = np.where(labels == 0, 10, labels).astype(np.uint8)
        savemat(folder / file, {"X": images.transpose(2, 3, 1, 0), "y": classes[:, None]})
        sums[part] = [url, file, md5(folder / file)]
    patch.setattr(torchvision.datasets.SVHN, "split_list", sums)


def write_gtsrb(written: Written, patch: pytest.MonkeyPatch) -> None:
    """Training photographs of all classes, their red the class, their green the sign; sizes vary. Test as given."""
    folder = written.root / "gtsrb"
    for label in range(43):
        place = folder / "GTSRB" / "Training" / f"{label:05}"
        place.mkdir(parents=True)
        for sign in range(SIGNS):
            for number in range(PHOTOGRAPHS):
                image = Image.new("RGB", (20 + number, 30 + label), (label, sign, number))
                image.save(place / f"{sign:05}_{number:05}.ppm")
    images = folder / "GTSRB" / "Final_Test" / "Images"
    images.mkdir(parents=True)
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for index, (pixels, label) in enumerate(zip(written.test, written.test_labels, strict=True)):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(images / f"{index:05}.ppm")
        rows.append(f"{index:05}.ppm;32;32;5;5;27;27;{label}")
    (folder / "GT-final_test.csv").write_text("\n".join(rows) + "\n")


WRITERS = {
    "mnist": lambda written, patch: write_idx("MNIST", written, patch),
    "fashion-mnist": lambda written, patch: write_idx("FashionMNIST", written, patch),
    "cifar10": lambda written, patch: write_cifar("CIFAR10", written, patch),
    "cifar100": lambda written, patch: write_cifar("CIFAR100", written, patch),
    "svhn": write_svhn,
    "gtsrb": write_gtsrb,
}


def publish(name: str, own: Path, folder: Path, address: str, patch: pytest.MonkeyPatch) -> None:
    """Serve the files as their makers do and let torchvision know where."""
    if name == "mnist":
        of = torchvision.datasets.MNIST
        sums = []
        for path in sorted((own / "MNIST" / "raw").iterdir()):
            packed = folder / f"{path.name}.gz"
            packed.write_bytes(gzip.compress(path.read_bytes()))
            sums.append((packed.name, md5(packed)))
        patch.setattr(of, "mirrors", [address])
        patch.setattr(of, "resources", sums)
    elif name == "cifar10":
        of = torchvision.datasets.CIFAR10
        archive = Path(shutil.make_archive(str(folder / "cifar-10-python"), "gztar", own, of.base_folder))
        patch.setattr(of, "url", address + archive.name)
        patch.setattr(of, "tgz_md5", md5(archive))
    else:
        shutil.copytree(own / "SVHN", folder, dirs_exist_ok=True)
        for entry in (torchvision.datasets.SVHN.split_list[part] for part in ("train", "test")):
            entry[0] = address + entry[1]
