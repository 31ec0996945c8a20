"""Engine files: what fits and is trusted is loaded, all else is built again and said; nothing is left half done."""

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from helpers.fixtures import Imitate
from purify_edge.bundle.manifest import EngineEntry, encode_manifest
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.signing import SIGNATURE
from purify_edge.engines.models import Setup, open_model
from purify_edge.engines.tensorrt.engine import require_builder
from purify_edge.engines.tensorrt.library import Builder
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.engines.tensorrt.store import LIST, EngineFiles, EnginePolicy, Place, is_trusted
from purify_edge.errors import BuildError, BundleError, MissingError

RTX = Setup("rtx", "fp32", "fp32")


def entries(bundle: Path) -> tuple[EngineEntry, ...]:
    return Bundle.open(bundle).manifest.engines


def open_purifier(bundle: Path, **policy: bool) -> None:
    """Open and close the purifier's engine; it must give what the manifest says."""
    open_model(Bundle.open(bundle), "purifier", RTX, EnginePolicy(**policy)).close()


def change_entry(bundle: Path, **changes: Any) -> None:
    """Change the one engine's entry, or its fingerprint."""
    manifest = Bundle.open(bundle).manifest
    (entry,) = manifest.engines
    fingerprint = {name: changes.pop(name, value) for name, value in entry.fingerprint.items()}
    entry = msgspec.structs.replace(entry, fingerprint=fingerprint, **changes)
    content = encode_manifest(msgspec.structs.replace(manifest, engines=(entry,)))
    (bundle / "manifest.json").write_bytes(content)


Ensure = Callable[..., bool]


@pytest.fixture
def ensure(model_files: Callable[..., EngineFiles]) -> Ensure:
    """See that a model has an engine of this builder and these options; whether it was there already."""

    def ensured(builder: Builder, precision: str = "fp32", *, force: bool = False, **options: Any) -> bool:
        library, cuda = require_builder(builder)
        files = model_files(precision=precision)
        graph = files.bundle.read(files.model.file)
        return files.ensure(graph, library, cuda.device, BuildOptions(**options), force=force)[1]

    return ensured


@pytest.fixture
def built(imitate: Imitate, unbuilt_bundle: Path) -> Any:
    """A world where the purifier's engine of the copied bundle was built."""
    world = imitate()
    open_purifier(unbuilt_bundle)
    assert len(world.builds) == 1
    return world


def test_an_engine_is_built_once_recorded_and_loaded_from_then_on(built: Any, unbuilt_bundle: Path) -> None:
    (entry,) = entries(unbuilt_bundle)
    content = (unbuilt_bundle / entry.file.path).read_bytes()
    assert entry.key == ("purifier", "fp32", "tensorrt_rtx")
    assert hashlib.sha256(content).hexdigest() == entry.file.sha256
    assert is_trusted(entry.file.sha256)
    graph = (unbuilt_bundle / "models/purifier.fp32.onnx").read_bytes()
    assert entry.fingerprint["onnx_sha256"] == hashlib.sha256(graph).hexdigest()
    open_purifier(unbuilt_bundle, build=False)
    assert len(built.builds) == 1
    assert built.deserialised == 2


CHANGES = [
    ({"onnx_sha256": "0" * 64}, "ONNX graph 000000000000 there"),
    ({"builder_version": "1.3.0"}, r"builder's version 1\.3\.0 there, 1\."),
    ({"compute_capabilities": ["8.9", "12.0"]}, r"compute capability 8\.9 and 12\.0 there, 8\.6 here"),
    ({"gpu": "GeForce"}, "GPU GeForce there, Fake RTX here"),
    ({"driver": "12.0"}, r"driver 12\.0 there, 13\.0 here"),
    ({"precision": "fp16"}, "precision fp16 there, fp32 here"),
    ({"batch": "many"}, "of another version of purify-edge"),
]


@pytest.mark.parametrize(("changes", "reason"), CHANGES)
def test_an_engine_that_does_not_fit_is_built_again_and_the_difference_told(
    built: Any, unbuilt_bundle: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], reason: str
) -> None:
    change_entry(unbuilt_bundle, **changes)
    with pytest.raises(MissingError, match=rf"{reason}.*--no-build.*purify-build"):
        open_purifier(unbuilt_bundle, build=False)
    loaded = built.deserialised
    with caplog.at_level(logging.INFO):
        open_purifier(unbuilt_bundle)
    assert "building an engine with TensorRT for RTX" in caplog.text
    assert reason.replace("\\", "") in caplog.text
    assert built.deserialised == loaded + 1  # the new one: the unfit one was not touched
    assert len(built.builds) == 2
    open_purifier(unbuilt_bundle, build=False)


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_damaged_engine_is_built_again(built: Any, unbuilt_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = unbuilt_bundle / entries(unbuilt_bundle)[0].file.path
    path.write_bytes(flipped(path.read_bytes()))
    loaded = built.deserialised
    with caplog.at_level(logging.INFO):
        open_purifier(unbuilt_bundle)
    assert "the engine cannot be used" in caplog.text
    assert "is damaged" in caplog.text
    assert (len(built.builds), built.deserialised) == (2, loaded + 1)
    Bundle.open(unbuilt_bundle).verify()
    open_purifier(unbuilt_bundle, build=False)


def test_a_refused_engine_is_built_again(built: Any, unbuilt_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    (entry,) = entries(unbuilt_bundle)
    content = flipped((unbuilt_bundle / entry.file.path).read_bytes())
    (unbuilt_bundle / entry.file.path).write_bytes(content)
    change_entry(unbuilt_bundle, file=msgspec.structs.replace(entry.file, sha256=hashlib.sha256(content).hexdigest()))
    with caplog.at_level(logging.INFO):
        open_purifier(unbuilt_bundle, trust=True)
    assert "cannot load the engine: Serialization assertion magicTagRead == kMAGIC_TAG failed." in caplog.text
    assert len(built.builds) == 2


def test_an_engine_from_elsewhere_is_not_deserialised_unless_the_user_says_so(
    built: Any, unbuilt_bundle: Path, own_folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(own_folders)  # another user
    loaded = built.deserialised
    with pytest.raises(MissingError, match=r"came from elsewhere.*--verify KEY or --trust-engines"):
        open_purifier(unbuilt_bundle, build=False)
    assert built.deserialised == loaded
    open_purifier(unbuilt_bundle, build=False, trust=True)
    opened = Bundle.open(unbuilt_bundle)
    verified = Bundle(opened.path, opened.manifest, verified=True)
    open_model(verified, "purifier", RTX, EnginePolicy(build=False)).close()  # as a signature vouches for it
    assert (len(built.builds), built.deserialised) == (1, loaded + 2)
    with caplog.at_level(logging.INFO):
        open_purifier(unbuilt_bundle)
    assert "an engine is executable code" in caplog.text
    assert len(built.builds) == 2


def test_a_signature_vouches_for_nothing_that_came_later(built: Any, unbuilt_bundle: Path, own_folders: Path) -> None:
    """Neither for an engine that the manifest lists since, nor for one in the user's cache."""
    opened = Bundle.open(unbuilt_bundle)
    before = msgspec.structs.replace(opened.manifest, engines=())
    shutil.rmtree(own_folders)
    loaded = built.deserialised
    for listed_in in ("the manifest", "the cache"):
        if listed_in == "the cache":
            (unbuilt_bundle / SIGNATURE).touch()
            cache = Place.of(Bundle(opened.path, before))
            shutil.copytree(unbuilt_bundle / "engines", cache.path / "engines")
            (cache.path / LIST).write_bytes(msgspec.json.encode(opened.manifest.engines))
        with pytest.raises(MissingError, match="--no-build"):
            open_model(Bundle(opened.path, before, verified=True), "purifier", RTX, EnginePolicy(build=False))
    assert built.deserialised == loaded


def test_the_new_engine_has_the_options_of_the_old_one(imitate: Imitate, unbuilt_bundle: Path, ensure: Ensure) -> None:
    world = imitate()
    options: dict[str, Any] = {"batch": (1, 2, 3), "optimization_level": 1}
    assert not ensure("tensorrt_rtx", **options)
    assert ensure("tensorrt_rtx", **options)
    assert not ensure("tensorrt_rtx", **options, force=True)
    assert len(world.builds) == 2
    change_entry(unbuilt_bundle, builder_version="1.2.3")
    open_purifier(unbuilt_bundle)
    (entry,) = entries(unbuilt_bundle)
    assert (entry.fingerprint["batch"], entry.fingerprint["flags"]) == ([1, 2, 3], {"optimization_level": 1})
    assert not ensure("tensorrt_rtx", batch=(1, 2, 4))


def test_one_engine_a_model_is_kept_and_the_others_stay(built: Any, unbuilt_bundle: Path) -> None:
    open_model(Bundle.open(unbuilt_bundle), "classifier", RTX).close()
    change_entry_of = entries(unbuilt_bundle)[0]
    (unbuilt_bundle / change_entry_of.file.path).unlink()
    open_purifier(unbuilt_bundle)
    files = sorted(path.name for path in (unbuilt_bundle / "engines").iterdir())
    assert files == sorted(Path(entry.file.path).name for entry in entries(unbuilt_bundle))
    assert [entry.role for entry in entries(unbuilt_bundle)] == ["classifier", "purifier"]


@pytest.mark.parametrize("closed", ["signed", "read-only"])
def test_a_bundle_that_may_not_change_gets_its_engines_in_the_users_cache(
    imitate: Imitate, unbuilt_bundle: Path, own_folders: Path, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = imitate()
    if closed == "signed":
        (unbuilt_bundle / "model.sig").write_text("{}")
    else:
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != unbuilt_bundle and access(path, mode))
    before = {path: path.read_bytes() for path in unbuilt_bundle.rglob("*") if path.is_file()}
    open_purifier(unbuilt_bundle)
    open_purifier(unbuilt_bundle, build=False)
    assert len(world.builds) == 1
    assert {path: path.read_bytes() for path in unbuilt_bundle.rglob("*") if path.is_file()} == before
    (cache,) = own_folders.rglob(LIST)
    cache.write_text("nonsense")
    open_purifier(unbuilt_bundle)
    assert len(world.builds) == 2


def test_a_version_compatible_engine_is_loaded_later(imitate: Imitate, unbuilt_bundle: Path, ensure: Ensure) -> None:
    imitate("tensorrt", "10.3.0")
    ensure("tensorrt", version_compatible=True)
    later = imitate("tensorrt", "10.7.0")
    open_model(
        Bundle.open(unbuilt_bundle), "purifier", Setup("tensorrt", "fp32", "fp32"), EnginePolicy(build=False)
    ).close()
    assert later.builds == []
    earlier = imitate("tensorrt", "10.1.0")
    open_model(Bundle.open(unbuilt_bundle), "purifier", Setup("tensorrt", "fp32", "fp32")).close()
    assert len(earlier.builds) == 1


def test_a_hardware_compatible_engine_runs_on_ampere_and_later_only(
    imitate: Imitate, model_files: Callable[..., EngineFiles], ensure: Ensure
) -> None:
    imitate("tensorrt", "10.3.0", capability=(8, 0))
    ensure("tensorrt", hardware_compatible=True)
    for capability, fits in ((9, 0), True), ((7, 5), False):
        imitate("tensorrt", "10.3.0", name="another", capability=capability)
        library, cuda = require_builder("tensorrt")
        files = model_files()
        graph = files.bundle.read(files.model.file)
        assert (files.find(graph, library, cuda.device).engine is not None) == fits


def test_what_the_builder_refuses_is_told_in_its_words_and_the_bundle_stays(
    imitate: Imitate, unbuilt_bundle: Path
) -> None:
    imitate().refuse_build = True
    before = (unbuilt_bundle / "manifest.json").read_bytes()
    with pytest.raises(BuildError, match=r"cannot build models/purifier.fp32.onnx: Could not find any implementation"):
        open_purifier(unbuilt_bundle)
    assert (unbuilt_bundle / "manifest.json").read_bytes() == before
    assert not (unbuilt_bundle / "engines").exists()


def test_what_the_runtime_refuses_is_told_in_its_words(imitate: Imitate, unbuilt_bundle: Path) -> None:
    world = imitate()
    world.refuse_load = True
    with pytest.raises(BuildError, match=r"cannot load the engine that it built of models/purifier.*GPU memory could"):
        open_purifier(unbuilt_bundle)
    assert world.cuda.live() == {}
    Bundle.open(unbuilt_bundle).verify()


def test_a_user_without_a_home_builds_every_time(
    built: Any, unbuilt_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable)
    monkeypatch.setattr(Path, "home", no_home)
    with caplog.at_level(logging.INFO):
        open_purifier(unbuilt_bundle)
    assert len(built.builds) == 2
    assert "cannot remember that this engine was built here" in caplog.text
    (unbuilt_bundle / "model.sig").write_text("{}")
    with caplog.at_level(logging.INFO):
        open_purifier(unbuilt_bundle)
    assert len(built.builds) == 3
    assert "the engine cannot be kept" in caplog.text
    assert "no home folder: set XDG_CACHE_HOME" in caplog.text


def test_on_a_full_disk_an_engine_runs_unkept_but_purify_build_fails(
    imitate: Imitate,
    unbuilt_bundle: Path,
    ensure: Ensure,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = imitate()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("purify_edge.engines.tensorrt.store.Place.save", full)
    with caplog.at_level(logging.INFO):
        open_purifier(unbuilt_bundle)
    assert "the engine cannot be kept ([Errno 28] No space left on device)" in caplog.text
    with pytest.raises(OSError, match="No space left"):
        ensure("tensorrt_rtx")
    assert len(world.builds) == 2
    assert entries(unbuilt_bundle) == ()


def test_engines_for_other_gpus_than_the_one_here_are_kept_as_well(imitate: Imitate, ensure: Ensure) -> None:
    world = imitate()  # of compute capability 8.6
    assert [ensure("tensorrt_rtx", compute_capabilities=("8.9",)) for _ in range(2)] == [False, True]
    assert len(world.builds) == 1


def test_options_that_a_later_version_has_not_any_more_are_left_out(
    imitate: Imitate, unbuilt_bundle: Path, ensure: Ensure, caplog: pytest.LogCaptureFixture
) -> None:
    """After an update of JetPack, say: TensorRT 10.3 has a DLA, 10.13 has none."""
    imitate("tensorrt", "10.3.0").dla_cores = 1
    ensure("tensorrt", "fp16", dla_core=0, batch=(1, 1, 1))
    imitate("tensorrt", "10.13.3")
    with caplog.at_level(logging.INFO):
        open_model(Bundle.open(unbuilt_bundle), "purifier", Setup("tensorrt", "fp16", "fp16")).close()
    assert "building with the default options: TensorRT 10.13.3 has no DLA" in caplog.text
    assert entries(unbuilt_bundle)[0].fingerprint["flags"] == {}


def test_a_manifest_that_is_gone_after_the_build_is_told(built: Any, unbuilt_bundle: Path) -> None:
    bundle = Bundle.open(unbuilt_bundle)
    (unbuilt_bundle / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="is not a purify-edge manifest"):
        open_model(bundle, "purifier", RTX)
