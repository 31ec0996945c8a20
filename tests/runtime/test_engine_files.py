"""Engine files: what fits and is trusted is loaded, all else is built again and said; nothing is left half done."""

import errno
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from purify_runtime.bundle import Bundle
from purify_runtime.engine_files import LIST, EngineFiles, EnginePolicy, Place
from purify_runtime.engines.trt.engine import require_builder
from purify_runtime.engines.trt.options import BuildOptions
from purify_runtime.errors import BuildError, BundleError, MissingError
from purify_runtime.manifest import EngineEntry, encode_manifest
from purify_runtime.pipeline import open_model
from purify_runtime.signing import SIGNATURE
from purify_runtime.trust import is_trusted


@pytest.fixture
def bundle_copy(bundle_copy: Path) -> Path:
    """Without the engines that came with it, where a builder was installed at the export."""
    manifest = msgspec.structs.replace(Bundle.open(bundle_copy).manifest, engines=())
    (bundle_copy / "manifest.json").write_bytes(encode_manifest(manifest))
    shutil.rmtree(bundle_copy / "engines", ignore_errors=True)
    return bundle_copy


def entries(bundle: Path) -> tuple[EngineEntry, ...]:
    return Bundle.open(bundle).manifest.engines


def open_purifier(bundle: Path, **policy: bool) -> None:
    """Open and close the purifier's engine; it must give what the manifest says."""
    open_model(Bundle.open(bundle), "purifier", "fp32", "rtx", EnginePolicy(**policy)).close()


def change_entry(bundle: Path, **changes: Any) -> None:
    """Change the one engine's entry, or its fingerprint."""
    manifest = Bundle.open(bundle).manifest
    (entry,) = manifest.engines
    fingerprint = {name: changes.pop(name, value) for name, value in entry.fingerprint.items()}
    entry = msgspec.structs.replace(entry, fingerprint=fingerprint, **changes)
    content = encode_manifest(msgspec.structs.replace(manifest, engines=(entry,)))
    (bundle / "manifest.json").write_bytes(content)


@pytest.fixture
def built(imitate: Callable[..., Any], bundle_copy: Path) -> Any:
    """A world where the purifier's engine of the copied bundle was built."""
    world = imitate()
    open_purifier(bundle_copy)
    assert len(world.builds) == 1
    return world


def test_an_engine_is_built_once_recorded_and_loaded_from_then_on(built: Any, bundle_copy: Path) -> None:
    (entry,) = entries(bundle_copy)
    content = (bundle_copy / entry.file.path).read_bytes()
    assert entry.key == ("purifier", "fp32", "tensorrt_rtx")
    assert hashlib.sha256(content).hexdigest() == entry.file.sha256
    assert is_trusted(entry.file.sha256)
    graph = (bundle_copy / "models/purifier.fp32.onnx").read_bytes()
    assert entry.fingerprint["onnx_sha256"] == hashlib.sha256(graph).hexdigest()
    open_purifier(bundle_copy, build=False)
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
    built: Any, bundle_copy: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], reason: str
) -> None:
    change_entry(bundle_copy, **changes)
    with pytest.raises(MissingError, match=rf"{reason}.*--no-build.*purify-build"):
        open_purifier(bundle_copy, build=False)
    loaded = built.deserialised
    with caplog.at_level(logging.INFO):
        open_purifier(bundle_copy)
    assert "building an engine with TensorRT for RTX" in caplog.text
    assert reason.replace("\\", "") in caplog.text
    assert built.deserialised == loaded + 1  # the new one: the unfit one was not touched
    assert len(built.builds) == 2
    open_purifier(bundle_copy, build=False)


def damage(content: bytes, how: str) -> bytes:
    if how == "truncated":
        return content[: len(content) // 2]
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("how", ["truncated", "bit-flipped"])
def test_a_damaged_engine_is_never_deserialised_but_built_again(
    built: Any, bundle_copy: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    path = bundle_copy / entries(bundle_copy)[0].file.path
    path.write_bytes(damage(path.read_bytes(), how))
    loaded = built.deserialised
    with caplog.at_level(logging.INFO):
        open_purifier(bundle_copy)
    assert "the engine cannot be used" in caplog.text
    assert "is damaged" in caplog.text
    assert (len(built.builds), built.deserialised) == (2, loaded + 1)
    Bundle.open(bundle_copy).verify()
    open_purifier(bundle_copy, build=False)


@pytest.mark.parametrize("how", ["truncated", "bit-flipped"])
def test_an_engine_that_tensorrt_refuses_is_built_again_with_its_words(
    built: Any, bundle_copy: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    (entry,) = entries(bundle_copy)
    content = damage((bundle_copy / entry.file.path).read_bytes(), how)
    (bundle_copy / entry.file.path).write_bytes(content)
    file = msgspec.structs.replace(entry.file, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    change_entry(bundle_copy, file=file)
    with caplog.at_level(logging.INFO):
        open_purifier(bundle_copy, trust=True)
    assert "cannot load the engine: Serialization assertion magicTagRead == kMAGIC_TAG failed." in caplog.text
    assert len(built.builds) == 2


def test_an_engine_from_elsewhere_is_not_deserialised_unless_the_user_says_so(
    built: Any, bundle_copy: Path, own_folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(own_folders)  # another user
    loaded = built.deserialised
    with pytest.raises(MissingError, match=r"came from elsewhere.*--verify KEY or --trust-engines"):
        open_purifier(bundle_copy, build=False)
    assert built.deserialised == loaded
    open_purifier(bundle_copy, build=False, trust=True)
    assert (len(built.builds), built.deserialised) == (1, loaded + 1)
    with caplog.at_level(logging.INFO):
        open_purifier(bundle_copy)
    assert "an engine is executable code" in caplog.text
    assert len(built.builds) == 2


def test_an_engine_of_a_verified_bundle_is_trusted(built: Any, bundle_copy: Path, own_folders: Path) -> None:
    shutil.rmtree(own_folders)
    opened = Bundle.open(bundle_copy)
    verified = Bundle(opened.path, opened.manifest, verified=True)
    open_model(verified, "purifier", "fp32", "rtx", EnginePolicy(build=False)).close()
    assert len(built.builds) == 1


def test_a_signature_vouches_for_nothing_that_came_after_it(built: Any, bundle_copy: Path, own_folders: Path) -> None:
    """Neither for an engine that the manifest lists since, nor for one in the user's cache."""
    opened = Bundle.open(bundle_copy)
    before = msgspec.structs.replace(opened.manifest, engines=())
    shutil.rmtree(own_folders)
    loaded = built.deserialised
    for listed_in in ("the manifest", "the cache"):
        if listed_in == "the cache":
            (bundle_copy / SIGNATURE).touch()
            cache = Place.of(Bundle(opened.path, before))
            shutil.copytree(bundle_copy / "engines", cache.path / "engines")
            (cache.path / LIST).write_bytes(msgspec.json.encode(opened.manifest.engines))
        with pytest.raises(MissingError, match="--no-build"):
            open_model(Bundle(opened.path, before, verified=True), "purifier", "fp32", "rtx", EnginePolicy(build=False))
    assert built.deserialised == loaded


def test_the_new_engine_is_built_with_the_options_of_the_old_one(
    imitate: Callable[..., Any], bundle_copy: Path, model_files: Callable[..., EngineFiles]
) -> None:
    world = imitate()
    library, cuda = require_builder("tensorrt_rtx")
    files = model_files()
    graph = files.bundle.read(files.model.file)
    options = BuildOptions(batch=(1, 2, 3), optimization_level=1)
    _, kept = files.ensure(graph, library, cuda.device, options)
    assert not kept
    assert files.ensure(graph, library, cuda.device, options)[1]
    _, kept = files.ensure(graph, library, cuda.device, options, force=True)
    assert (kept, len(world.builds)) == (False, 2)
    change_entry(bundle_copy, builder_version="1.2.3")
    open_purifier(bundle_copy)
    (entry,) = entries(bundle_copy)
    assert (entry.fingerprint["batch"], entry.fingerprint["flags"]) == ([1, 2, 3], {"optimization_level": 1})
    _, kept = files.ensure(graph, library, cuda.device, BuildOptions(batch=(1, 2, 4)))
    assert not kept


def test_one_engine_a_model_is_kept_and_the_others_stay(built: Any, bundle_copy: Path) -> None:
    open_model(Bundle.open(bundle_copy), "classifier", "fp32", "rtx").close()
    change_entry_of = entries(bundle_copy)[0]
    (bundle_copy / change_entry_of.file.path).unlink()
    open_purifier(bundle_copy)
    files = sorted(path.name for path in (bundle_copy / "engines").iterdir())
    assert files == sorted(Path(entry.file.path).name for entry in entries(bundle_copy))
    assert [entry.role for entry in entries(bundle_copy)] == ["classifier", "purifier"]


@pytest.mark.parametrize("closed", ["signed", "read-only"])
def test_a_bundle_that_may_not_change_gets_its_engines_in_the_users_cache(
    imitate: Callable[..., Any], bundle_copy: Path, own_folders: Path, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = imitate()
    if closed == "signed":
        (bundle_copy / "model.sig").write_text("{}")
    else:
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != bundle_copy and access(path, mode))
    before = {path: path.read_bytes() for path in bundle_copy.rglob("*") if path.is_file()}
    open_purifier(bundle_copy)
    open_purifier(bundle_copy, build=False)
    assert len(world.builds) == 1
    assert {path: path.read_bytes() for path in bundle_copy.rglob("*") if path.is_file()} == before
    (cache,) = own_folders.rglob(LIST)
    cache.write_text("nonsense")
    open_purifier(bundle_copy)
    assert len(world.builds) == 2


def test_a_version_compatible_engine_is_loaded_by_a_later_version(
    imitate: Callable[..., Any], bundle_copy: Path, model_files: Callable[..., EngineFiles]
) -> None:
    imitate("tensorrt", "10.3.0")
    library, cuda = require_builder("tensorrt")
    files = model_files()
    files.ensure(files.bundle.read(files.model.file), library, cuda.device, BuildOptions(version_compatible=True))
    later = imitate("tensorrt", "10.7.0")
    open_model(Bundle.open(bundle_copy), "purifier", "fp32", "tensorrt", EnginePolicy(build=False)).close()
    assert later.builds == []
    earlier = imitate("tensorrt", "10.1.0")
    open_model(Bundle.open(bundle_copy), "purifier", "fp32", "tensorrt").close()
    assert len(earlier.builds) == 1


def test_a_hardware_compatible_engine_runs_on_ampere_and_later_only(
    imitate: Callable[..., Any], model_files: Callable[..., EngineFiles]
) -> None:
    imitate("tensorrt", "10.3.0", capability=(8, 0))
    library, cuda = require_builder("tensorrt")
    files = model_files()
    graph = files.bundle.read(files.model.file)
    files.ensure(graph, library, cuda.device, BuildOptions(hardware_compatible=True))
    for capability, fits in ((9, 0), True), ((7, 5), False):
        imitate("tensorrt", "10.3.0", name="another", capability=capability)
        library, cuda = require_builder("tensorrt")
        assert (model_files().find(graph, library, cuda.device).content is not None) == fits


def test_none_from_the_builder_is_an_error_in_its_words_and_the_bundle_stays(
    imitate: Callable[..., Any], bundle_copy: Path
) -> None:
    imitate().refuse_build = True
    before = (bundle_copy / "manifest.json").read_bytes()
    with pytest.raises(BuildError, match=r"cannot build models/purifier.fp32.onnx: Could not find any implementation"):
        open_purifier(bundle_copy)
    assert (bundle_copy / "manifest.json").read_bytes() == before
    assert not (bundle_copy / "engines").exists()


def test_none_from_the_runtime_for_what_was_just_built_is_an_error_in_its_words(
    imitate: Callable[..., Any], bundle_copy: Path
) -> None:
    world = imitate()
    world.refuse_load = True
    with pytest.raises(BuildError, match=r"cannot load the engine that it built of models/purifier.*GPU memory could"):
        open_purifier(bundle_copy)
    assert world.cuda.live() == {}
    Bundle.open(bundle_copy).verify()


def test_a_user_without_a_home_builds_every_time(
    built: Any, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable)
    monkeypatch.setattr(Path, "home", no_home)
    with caplog.at_level(logging.INFO):
        open_purifier(bundle_copy)
    assert len(built.builds) == 2
    assert "cannot remember that this engine was built here" in caplog.text
    (bundle_copy / "model.sig").write_text("{}")
    with caplog.at_level(logging.INFO):
        open_purifier(bundle_copy)
    assert len(built.builds) == 3
    assert "the engine cannot be kept" in caplog.text
    assert "no home folder: set XDG_CACHE_HOME" in caplog.text


def test_on_a_full_disk_an_engine_runs_unkept_but_purify_build_fails(
    imitate: Callable[..., Any],
    bundle_copy: Path,
    model_files: Callable[..., EngineFiles],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = imitate()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("purify_runtime.engine_files.Place.save", full)
    with caplog.at_level(logging.INFO):
        open_purifier(bundle_copy)
    assert "the engine cannot be kept ([Errno 28] No space left on device)" in caplog.text
    library, cuda = require_builder("tensorrt_rtx")
    files = model_files()
    with pytest.raises(OSError, match="No space left"):
        files.ensure(files.bundle.read(files.model.file), library, cuda.device, BuildOptions())
    assert len(world.builds) == 2
    assert entries(bundle_copy) == ()


def test_engines_for_other_gpus_than_the_one_here_are_kept_as_well(
    imitate: Callable[..., Any], model_files: Callable[..., EngineFiles]
) -> None:
    world = imitate()  # of compute capability 8.6
    library, cuda = require_builder("tensorrt_rtx")
    files = model_files()
    graph, options = files.bundle.read(files.model.file), BuildOptions(compute_capabilities=("8.9",))
    assert [files.ensure(graph, library, cuda.device, options)[1] for _ in range(2)] == [False, True]
    assert len(world.builds) == 1


def test_options_that_a_later_version_has_not_any_more_are_left_out(
    imitate: Callable[..., Any],
    bundle_copy: Path,
    model_files: Callable[..., EngineFiles],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After an update of JetPack, say: TensorRT 10.3 has a DLA, 10.13 has none."""
    imitate("tensorrt", "10.3.0").dla_cores = 1
    library, cuda = require_builder("tensorrt")
    files = model_files(precision="fp16")
    graph = files.bundle.read(files.model.file)
    files.ensure(graph, library, cuda.device, BuildOptions(dla_core=0, batch=(1, 1, 1)))
    imitate("tensorrt", "10.13.3")
    with caplog.at_level(logging.INFO):
        open_model(Bundle.open(bundle_copy), "purifier", "fp16", "tensorrt").close()
    assert "building with the default options: TensorRT 10.13.3 has no DLA" in caplog.text
    assert entries(bundle_copy)[0].fingerprint["flags"] == {}


def test_a_manifest_that_is_gone_after_the_build_is_told(built: Any, bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    (bundle_copy / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="is not a purify-edge manifest"):
        open_model(bundle, "purifier", "fp32", "rtx")


BUILD = "from purify_runtime.cli.build import main; main()"


def start_build(bundle: Path, own_folders: Path, slowly: bool = False) -> "subprocess.Popen[str]":
    """purify-build in a process of its own, with the real TensorRT for RTX; `slowly` waits within the build."""
    wait = (
        "import time, purify_runtime.cli.building as building\n"
        "build = building._build\n"
        "def slow(*arguments):\n"
        "    def tell(phase, done):\n"
        "        print('building', flush=True)\n"
        "        time.sleep(0.2)\n"
        "    return build(*arguments[:-1], tell)\n"
        "building._build = slow\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", (wait if slowly else "") + BUILD, str(bundle), "--engine", "rtx", "--precision", "fp32"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_is_killed_leaves_the_bundle_whole(bundle_copy: Path, own_folders: Path, how: int) -> None:
    pytest.importorskip("tensorrt_rtx")
    before = (bundle_copy / "manifest.json").read_bytes()
    process = start_build(bundle_copy, own_folders, slowly=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (-how if how == signal.SIGKILL else 130), err
    assert "Traceback" not in err
    assert (bundle_copy / "manifest.json").read_bytes() == before
    Bundle.open(bundle_copy).verify()
    after = start_build(bundle_copy, own_folders)  # the lock went with the process
    _, err = after.communicate(timeout=120)
    assert after.returncode == 0, err
    assert len(entries(bundle_copy)) == 3


def test_of_two_processes_one_builds_and_one_waits(bundle_copy: Path, own_folders: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    first = start_build(bundle_copy, own_folders, slowly=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "building\n"
    second = start_build(bundle_copy, own_folders)
    outputs = [process.communicate(timeout=300) for process in (second, first)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    said = outputs[0][1]
    assert "waiting for another process that builds engines" in said
    assert (outputs[0][1] + outputs[1][1]).count("building an engine with") == 3  # each of the models once
    assert sorted(entry.role for entry in entries(bundle_copy)) == ["classifier", "defended", "purifier"]
    Bundle.open(bundle_copy).verify()
    for entry in entries(bundle_copy):
        Bundle.open(bundle_copy).read(entry.file)
