"""Bundles that ship, opened by name, and bundles that earlier versions wrote."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.shipped import FOLDER, shipped_names
from purify_edge.check.check import check_bundle
from purify_edge.check.cli import main as purify_check
from purify_edge.engines.tensorrt.store import Place
from purify_edge.errors import BundleError
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


def test_a_folder_of_that_name_comes_first(tmp_path: Path) -> None:
    (tmp_path / "fashion-mnist").mkdir()
    with pytest.raises(BundleError, match=r"fashion-mnist is not a bundle: manifest\.json cannot be read"):
        Bundle.open("fashion-mnist")


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
