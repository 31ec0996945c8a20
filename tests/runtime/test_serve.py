"""purify-serve: the repository it writes. tests/serving runs one in a real Triton."""

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.errors import BundleError, InputError
from purify_edge.images.decoding import decode_image
from purify_edge.serve.cli import main
from purify_edge.serve.config import CONFIG, Serving, contract_of
from purify_edge.serve.repository import write_model


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return Bundle.open(bundle_path)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_version_is_a_verified_copy_of_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    version = write_model(bundle, tmp_path, Serving(name="pair"))
    assert version == tmp_path / "pair" / "1"
    assert Bundle.open(version / "bundle").sha256 == bundle.sha256
    assert files(version / "bundle") == files(bundle.path)
    assert files(tmp_path) - {f"pair/1/bundle/{name}" for name in files(bundle.path)} == {
        "serve.sh",
        "pair/config.pbtxt",
        "pair/labels.txt",
        "pair/warmup/images",
        "pair/1/model.py",
        "pair-health/config.pbtxt",
        "pair-health/1/model.py",
        "pair-health/1/image",
    }
    code = (version / "model.py").read_text()
    assert code.startswith("from purify_edge.serve.triton import PixelModel\n")
    assert f"manifest_sha256 = '{bundle.sha256}'" in code
    assert (tmp_path / "pair" / "labels.txt").read_text().splitlines() == list(bundle.manifest.class_names)
    first = next(iter(load_golden(bundle).values())).images[:1]
    assert (tmp_path / "pair" / "warmup" / "images").read_bytes() == first.tobytes()
    assert (tmp_path / "serve.sh").stat().st_mode & stat.S_IXUSR


def test_the_configuration_is_that_of_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    asked = Serving(name="pair", instances=3, max_batch=8, engine="onnxruntime", precision="fp32")
    write_model(bundle, tmp_path, asked)
    text = (tmp_path / "pair" / CONFIG).read_text()
    for line in (
        'name: "pair"',
        'backend: "python"',
        "max_batch_size: 8",
        "count: 3",
        "dynamic_batching { max_queue_delay_microseconds: 0 }",
        'key: "engine" value { string_value: "onnxruntime" }',
        'key: "precision" value { string_value: "fp32" }',
    ):
        assert line in text
    assert text.count("dims: [28, 28, 1]") == 3  # in, purified, warm-up
    assert 'name: "suspicious"' in text
    write_model(bundle, tmp_path, Serving(name="files", files=True))
    of_files = (tmp_path / "files" / CONFIG).read_text()
    assert 'name: "files"\n    data_type: TYPE_STRING\n    dims: [1]' in of_files
    assert "model_warmup" not in of_files
    assert not (tmp_path / "files" / "warmup").exists()


def test_sparing_clean_images_is_part_of_what_a_model_gives(bundle: Bundle, tmp_path: Path) -> None:
    write_model(bundle, tmp_path, Serving(name="pair"))
    arguments = [str(bundle.path), str(tmp_path), "--name", "spared", "--spare-clean"]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0, found.stderr
    without, spared = ((tmp_path / name / CONFIG).read_text() for name in ("pair", "spared"))
    assert 'name: "spared"\n    data_type: TYPE_BOOL\n    dims: [1]' in contract_of(spared)
    assert 'key: "spare_clean" value { string_value: "true" }' in spared
    assert '"spared"' not in without
    assert 'key: "spare_clean" value { string_value: "false" }' in without
    with pytest.raises(InputError, match="takes or gives something else than this bundle"):
        write_model(bundle, tmp_path, Serving(name="pair", spare_clean=True))


def test_clean_images_are_not_spared_without_a_threshold(edit_manifest: Callable[..., Path], tmp_path: Path) -> None:
    path = edit_manifest(lambda manifest: manifest.pop("spare"))
    found = CliRunner().invoke(main, [str(path), str(tmp_path / "models"), "--spare-clean"])
    assert found.exit_code == 2
    assert "has no threshold to spare clean images by: export it again" in " ".join(found.stderr.split())
    assert not (tmp_path / "models").exists()


def test_versions_count_up_and_none_is_replaced(bundle: Bundle, tmp_path: Path) -> None:
    paths = [write_model(bundle, tmp_path, Serving(name="pair", version=number)) for number in (None, 7, None)]
    assert [path.name for path in paths] == ["1", "7", "8"]
    with pytest.raises(InputError, match="has a version 7; leave --model-version out for the next one, 9"):
        write_model(bundle, tmp_path, Serving(name="pair", version=7))


def test_a_model_keeps_what_it_takes(bundle: Bundle, tmp_path: Path) -> None:
    write_model(bundle, tmp_path, Serving(name="pair"))
    write_model(bundle, tmp_path, Serving(name="pair", instances=2))
    with pytest.raises(InputError, match="takes or gives something else than this bundle; --name names another model"):
        write_model(bundle, tmp_path, Serving(name="pair", files=True))
    assert sorted(path.name for path in (tmp_path / "pair").iterdir() if path.is_dir()) == ["1", "2", "warmup"]


@pytest.mark.parametrize("name", ["../up", ".hidden", "a b", "pair-health", ""])
def test_a_name_that_is_no_folder_is_refused(bundle: Bundle, tmp_path: Path, name: str) -> None:
    if name:
        with pytest.raises(InputError, match="a model cannot be called"):
            write_model(bundle, tmp_path, Serving(name=name))
        assert not list(tmp_path.iterdir())
    else:
        assert write_model(bundle, tmp_path, Serving(name=None)).parent.name == bundle.manifest.name


def test_a_damaged_bundle_is_refused_and_nothing_is_left(bundle_copy: Path, tmp_path: Path) -> None:
    model = next((bundle_copy / "models").iterdir())
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(BundleError, match="is damaged"):
        write_model(Bundle.open(bundle_copy), tmp_path / "repository", Serving())
    assert not (tmp_path / "repository").exists()


def test_an_interrupted_copy_leaves_no_version(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Path, target: Path) -> None:
        target.mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copytree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_model(bundle, tmp_path, Serving(name="pair"))
    assert not list((tmp_path / "pair").iterdir())


@pytest.mark.parametrize("options", [{}, {"files": True}])
def test_the_health_model_asks_for_a_golden_image(bundle: Bundle, tmp_path: Path, options: dict[str, bool]) -> None:
    write_model(bundle, tmp_path, Serving(name="pair", **options))
    code, golden = (tmp_path / "pair-health" / "1" / "model.py").read_text(), next(iter(load_golden(bundle).values()))
    image = (tmp_path / "pair-health" / "1" / "image").read_bytes()
    assert code.startswith("from purify_edge.serve.triton import HealthModel\n")
    assert "asks = 'pair'" in code
    if options:
        assert "input_name = 'files'\n    shape = (1, 1)\n    dtype = 'object'" in code
        image = decode_image(image, bundle.manifest.input, source="image").tobytes()
    else:
        assert "input_name = 'images'\n    shape = (1, 28, 28, 1)\n    dtype = 'uint8'" in code
    assert image == golden.images[:1].tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "has no served graph; purify-export --served"),
        (["--files"], "leave --files and --engine out"),
        (["--engine", "onnxruntime"], "leave --files and --engine out"),
    ],
)
def test_what_no_native_model_can_be_ends_with_2(
    bundle_path: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    arguments = [str(bundle_path), str(tmp_path / "models"), "--native", "openvino", *options]
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 2
    assert message in " ".join(found.stderr.split())
    assert not (tmp_path / "models").exists()


def test_the_command_tells_what_it_wrote_and_how_to_start(bundle_path: Path, tmp_path: Path) -> None:
    found = CliRunner().invoke(main, [str(bundle_path), str(tmp_path / "models"), "--name", "pair"])
    assert found.exit_code == 0, found.stderr
    assert found.stdout.startswith(f"{tmp_path / 'models' / 'pair' / '1'}: ")
    assert f"{tmp_path / 'models' / 'serve.sh'}" in found.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "quantum"], "no engine 'quantum'"),
        (["--precision", "fp17"], "has no fp17; --precision is one of"),
        (["--instances", "0"], "0 is not in the range"),
    ],
)
def test_what_cannot_be_had_ends_with_2(bundle_path: Path, tmp_path: Path, options: list[str], message: str) -> None:
    found = CliRunner().invoke(main, [str(bundle_path), str(tmp_path / "models"), *options])
    assert found.exit_code == 2
    assert message in " ".join(found.stderr.split())
    assert not (tmp_path / "models").exists()
