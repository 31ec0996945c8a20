"""Bundles that ship, opened by name, and bundles that earlier versions wrote."""

import os
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from helpers.project import REPOSITORY
from purify_edge.bundle import shipped
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.shipped import ARCHIVE, FOLDER, archive_of, shipped_names
from purify_edge.check.check import check_bundle
from purify_edge.check.cli import main as purify_check
from purify_edge.engines.tensorrt.store import Place
from purify_edge.errors import BundleError, MissingError
from purify_edge.pipeline.pipeline import Pipeline

SCHEMA_1 = Path(__file__).parent.parent / "assets" / "schema-1"
"""A bundle of small untrained networks as the first version of purify-export wrote it."""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", shipped_names())
def test_a_bundle_that_ships_opens_by_its_name_and_is_whole(name: str) -> None:
    bundle = Bundle.open(name)
    assert bundle.path == FOLDER / name
    assert bundle.manifest.name == name
    bundle.verify()
    assert bundle.precisions("defended") == ["fp32", "fp16"]
    assert bundle.manifest.engines == ()


@pytest.mark.parametrize("name", shipped_names())
def test_it_spares_most_clean_images_and_none_that_is_attacked(name: str) -> None:
    golden = load_golden(Bundle.open(name))
    with Pipeline.load(name, engine="onnxruntime", precision="fp32", spare_clean=True) as pipeline:
        clean, attacked = (pipeline.predict(golden[split].images).spared for split in ("clean", "adversarial"))
    assert clean is not None
    assert attacked is not None
    assert clean.mean() > 0.9
    assert not attacked.any()


def test_a_command_takes_its_name() -> None:
    options = ["--rounds", "0", "--engine", "onnxruntime", "--precision", "fp32"]
    done = CliRunner().invoke(purify_check, ["fashion-mnist", *options])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", ["fashion-mnist", "photos"])
def test_a_folder_of_that_name_comes_first(name: str, tmp_path: Path, own_folders: Path) -> None:
    shutil.copytree(SCHEMA_1, tmp_path / name)
    assert Bundle.open(name).manifest.schema_version == 1
    (tmp_path / name / "manifest.json").unlink()
    with pytest.raises(BundleError, match=rf"{name} is a folder here, without manifest\.json, and hides the bundle"):
        Bundle.open(name)
    assert Bundle.open(FOLDER / "fashion-mnist").path == FOLDER / "fashion-mnist"


def test_a_name_that_does_not_ship_is_answered_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"fashion-mist is not a bundle: .* or one that ships: fashion-mnist"):
        Bundle.open("fashion-mist")
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        Bundle.open(tmp_path / "fashion-mnist")  # not a bare name
    with pytest.raises(BundleError, match=r"cifar10 does not ship as a bundle; purify-export cifar10 --data DIR"):
        Pipeline.load("cifar10")
    with pytest.raises(BundleError, match=r"purify-export fashion-mnist-adaptive writes"):
        Bundle.open("fashion-mnist-adaptive")


def test_engines_are_never_built_into_it(own_folders: Path) -> None:
    place = Place.of(Bundle.open("fashion-mnist"))
    assert place.path.is_relative_to(own_folders)


def test_a_packed_bundle_is_unpacked_once_and_whole(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(Bundle.open, ["photos"] * 4))
    folder = opened[0].path
    assert {bundle.path for bundle in opened} == {folder}
    assert folder.is_relative_to(own_folders)
    assert list(folder.parent.iterdir()) == [folder]
    bundle = opened[0]
    assert bundle.manifest.name == "photos"
    bundle.verify()
    assert bundle.manifest.suspicion is not None
    assert bundle.manifest.spare is not None
    monkeypatch.setattr(tarfile, "open", None)  # not needed again
    assert Bundle.open("photos").path == folder


def test_a_python_whose_tarfile_has_no_filters_unpacks_it(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract = tarfile.TarFile.extractall
    monkeypatch.delattr(tarfile, "data_filter")
    monkeypatch.setattr(
        tarfile.TarFile, "extractall", lambda packed, path: extract(packed, path, filter="fully_trusted")
    )
    Bundle.open("photos").verify()


def test_it_gives_attacked_photographs_their_class_back(own_folders: Path) -> None:
    shown = REPOSITORY / "lab" / "photographs" / "shown"
    cup = Image.open(shown / "test" / "coffee.jpg")
    attacked = [Image.open(path) for path in sorted((shown / "attacked").glob("*.png"))]
    with Pipeline.load("photos", engine="onnxruntime", precision="fp32") as pipeline:
        found = pipeline.predict([cup, *attacked])
    assert found.unpurified is not None
    classes = Bundle.open("photos").manifest.class_names
    names, alone = ([classes[label] for label in labels] for labels in (found.labels, found.unpurified.argmax(axis=1)))
    assert names[0] == alone[0] == "espresso"
    assert "espresso" in names[1:]
    assert "espresso" not in alone[1:]


def test_a_packed_bundle_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shipped.PACKED, "photos", "no_such_package")
    with pytest.raises(MissingError, match=r"the bundle photos needs 'photos': pip install 'purify-edge\[photos\]'"):
        Bundle.open("photos")


def test_a_cut_archive_is_told_of_and_leaves_nothing(
    package: Path, own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = archive_of("photos").read_bytes()
    (package / "cut_photos").mkdir(parents=True)
    (package / "cut_photos" / "__init__.py").touch()
    (package / "cut_photos" / ARCHIVE).write_bytes(whole[: len(whole) // 2])
    monkeypatch.setitem(shipped.PACKED, "photos", "cut_photos")
    with pytest.raises(BundleError, match=r"cannot be unpacked \(.*\); expected a whole archive and a writable folder"):
        Bundle.open("photos")
    assert not [path for path in own_folders.rglob("*") if path.is_file()]
    (package / "cut_photos" / ARCHIVE).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(BundleError, match=r"cannot be unpacked \(not an lzma file\)"):
        Bundle.open("photos")


def test_an_unpacked_bundle_that_lost_files_says_that_it_comes_back(own_folders: Path) -> None:
    folder = Bundle.open("photos").path
    (folder / "golden.npz").write_bytes(b"")
    with pytest.raises(
        BundleError, match=rf"golden\.npz is damaged: .*; remove {folder}, and load it again by its name"
    ):
        Bundle.open("photos").verify()
    (folder / "manifest.json").unlink()
    with pytest.raises(BundleError, match=rf"{folder} has no manifest\.json any more; remove this folder, and load"):
        Bundle.open("photos")
    shutil.rmtree(folder)
    Bundle.open("photos").verify()


def test_it_is_on_the_disk_before_it_takes_its_name(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda number: synced.add(os.fstat(number).st_ino))
    folder = Bundle.open("photos").path
    assert synced == {path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


def test_where_the_cache_cannot_be_written_to_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/self")
    with pytest.raises(BundleError, match=r"name another folder for cached files in XDG_CACHE_HOME"):
        Bundle.open("photos")


def test_a_bundle_of_the_first_schema_is_read_checked_and_run() -> None:
    bundle = Bundle.open(SCHEMA_1)
    assert bundle.manifest.schema_version == 1
    assert bundle.manifest.sbom is None  # there was none yet
    bundle.verify()
    golden = load_golden(bundle)
    assert {name: len(split) for name, split in golden.items()} == {"clean": 8, "adversarial": 8, "noise": 8}
    report = check_bundle(bundle, rounds=0, engine="onnxruntime", precisions=("fp32",))
    assert report.passed
    with Pipeline.load(SCHEMA_1, engine="onnxruntime", precision="fp32") as pipeline:
        labels = pipeline.predict(golden["clean"].images).labels
    assert (labels == golden["clean"].defended.argmax(axis=1)).all()
