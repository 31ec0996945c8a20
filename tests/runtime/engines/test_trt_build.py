"""The builder core: TensorRT for RTX really builds here, without a GPU; other versions are imitated."""

import _thread
import hashlib
import importlib.util
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from helpers.fixtures import Imitate
from purify_edge.engines.tensorrt import library as libraries
from purify_edge.engines.tensorrt.build import BuiltEngine
from purify_edge.engines.tensorrt.cudart import Device
from purify_edge.engines.tensorrt.feedback import interruptible
from purify_edge.engines.tensorrt.library import RTX_COMPUTE_CAPABILITIES, Library, installed_builders, load_library
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.errors import BuildError, InputError, MissingError

needs_rtx = pytest.mark.skipif("tensorrt_rtx" not in installed_builders(), reason="tensorrt-rtx is not installed")


@needs_rtx
@pytest.mark.parametrize("batch", [(1, 1, 1), (2, 8, 8), (1, 64, 256)])
def test_every_profile_builds_for_all_gpus_at_once(
    build: Callable[..., BuiltEngine], bundle_path: Path, batch: tuple[int, int, int]
) -> None:
    built = build("defended", "fp16", batch=batch)
    graph = (bundle_path / "models/defended.fp16.onnx").read_bytes()
    fingerprint = built.fingerprint
    assert fingerprint.onnx_sha256 == hashlib.sha256(graph).hexdigest()
    assert fingerprint.builder_version == importlib.import_module("tensorrt_rtx").__version__
    assert fingerprint.compute_capabilities == RTX_COMPUTE_CAPABILITIES
    assert (fingerprint.builder, fingerprint.precision, fingerprint.batch) == ("tensorrt_rtx", "fp16", batch)
    assert (fingerprint.gpu, fingerprint.driver) == (None, None)


@needs_rtx
def test_half_precision_makes_a_smaller_engine(build: Callable[..., BuiltEngine]) -> None:
    assert len(build(precision="fp16").content) < len(build(precision="fp32").content)


@needs_rtx
def test_the_builder_has_the_workspace_and_the_level_that_it_is_given(build: Callable[..., BuiltEngine]) -> None:
    built = build(workspace_mib=256, optimization_level=0, compute_capabilities=("8.6",))
    assert built.fingerprint.flags == {"workspace_mib": 256, "optimization_level": 0}
    assert BuildOptions.from_fingerprint((1, 2, 3), built.fingerprint.flags) == BuildOptions(
        batch=(1, 2, 3), workspace_mib=256, optimization_level=0
    )
    with pytest.raises(BuildError, match="within workspace limit"):
        build("classifier", "fp32", workspace_mib=1, compute_capabilities=("8.6",))


@needs_rtx
@pytest.mark.parametrize(("graph", "reason"), [(b"", "it is no ONNX model"), (b"nonsense", "Failed to parse")])
def test_what_is_no_graph_is_refused(build: Callable[..., BuiltEngine], graph: bytes, reason: str) -> None:
    with pytest.raises(BuildError, match=rf"TensorRT for RTX [0-9.]+ cannot parse the purifier: .*{reason}"):
        build(graph=graph)


@needs_rtx
def test_the_parsers_refusal_names_node_operator_and_reason(build: Callable[..., BuiltEngine]) -> None:
    onnx = pytest.importorskip("onnx")
    image, answer = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4]) for name in "xy")
    node = onnx.helper.make_node("Fantasy", ["x"], ["y"], name="the_odd_one")
    graph = onnx.helper.make_graph([node], "g", [image], [answer])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(BuildError, match=r"cannot parse the purifier: the_odd_one \(Fantasy\): .*[Pp]lugin"):
        build(graph=model.SerializeToString())


@needs_rtx
def test_progress_is_told_and_grows(build: Callable[..., BuiltEngine]) -> None:
    told: list[tuple[str, float]] = []
    build(compute_capabilities=("8.6",), progress=lambda phase, done: told.append((phase, done)))
    fractions = [done for _, done in told]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) > 20
    assert 0 < fractions[0] < 0.1
    assert told[-1] == ("Building engine", 1.0)


@needs_rtx
def test_ctrl_c_ends_a_build(build: Callable[..., BuiltEngine]) -> None:
    told: list[str] = []

    def progress(phase: str, done: float) -> None:
        if not told:
            _thread.interrupt_main()  # as Ctrl-C does
        told.append(phase)
        time.sleep(0.2)

    with pytest.raises(KeyboardInterrupt):
        build(compute_capabilities=("8.6",), progress=progress)
    count = len(told)
    assert 0 < count < 60  # a whole build tells more than a hundred steps
    time.sleep(0.5)
    assert len(told) == count  # it has ended, and does not go on behind our back


def test_ctrl_c_while_the_thread_starts_begins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Thread.start` waits for the thread, and can be interrupted while it does."""
    begun: list[int] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        interruptible(lambda: begun.append(1), threading.Event())
    time.sleep(0.1)
    assert begun == []


def test_what_fails_in_the_thread_fails_here() -> None:
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0, threading.Event())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": (64, 16, 1)}, "batch 64,16,1: expected 1 <= MIN <= OPT <= MAX"),
        ({"batch": (0, 1, 1)}, "batch 0,1,1"),
        ({"workspace_mib": 0}, "workspace 0: expected 1 to 1048576 MiB"),
        ({"workspace_mib": 10**17}, "expected 1 to 1048576 MiB"),
        ({"batch": (1, 1, 10**30)}, "<= MAX <= 65536"),
        ({"optimization_level": 6}, "optimisation level 6: expected 0 to 5"),
        ({"compute_capabilities": ("86",)}, r"compute capability '86': expected MAJOR\.MINOR"),
        ({"dla_core": 0}, "batch 1,16,64: a DLA takes one batch size only, expected 1,1,1 say"),
        ({"dla_core": -1, "batch": (1, 1, 1)}, "DLA core -1: expected 0 or more"),
    ],
)
def test_options_that_no_builder_takes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BuildOptions(**options)


def test_timings_are_kept_between_builds_and_a_cache_of_another_gpu_is_refused(
    imitate: Imitate, build: Callable[..., BuiltEngine], tmp_path: Path
) -> None:
    world = imitate("tensorrt", "10.3.0")
    cache = tmp_path / "timings"
    again = partial(build, builder="tensorrt", timing_cache=cache)
    again()
    first = cache.read_bytes()
    again()
    assert [config.timings for config in world.builds] == [b"", first]
    world.refuse_build = True
    with pytest.raises(BuildError, match="Could not find any implementation for node x"):
        again()
    assert len(cache.read_bytes()) > len(first)  # the timings of a failed build are kept as well
    cache.write_bytes(b"of another GPU")
    with pytest.raises(BuildError, match=r"cannot use the timing cache .*remove it, or name another"):
        again()
    assert cache.read_bytes() == b"of another GPU"


@pytest.mark.parametrize("place", ["absent/timings", "a folder"])
def test_a_timing_cache_that_cannot_be_kept_is_refused_before_the_build(
    imitate: Imitate, build: Callable[..., BuiltEngine], tmp_path: Path, place: str
) -> None:
    world = imitate("tensorrt", "10.3.0")
    (tmp_path / "a folder").mkdir()
    with pytest.raises(InputError, match=r"the timing cache .* cannot be (written to; expected|read .*; name another)"):
        build(builder="tensorrt", timing_cache=tmp_path / place)
    assert world.builds == []


def test_flags_in_a_manifest_name_no_files() -> None:
    with pytest.raises(InputError, match="'timing_cache' is none of workspace_mib, optimization_level"):
        BuildOptions.from_fingerprint((1, 2, 3), {"timing_cache": "/home/user/.bashrc"})


def test_tensorrt_without_a_gpu_says_so(imitate: Imitate, build: Callable[..., BuiltEngine]) -> None:
    imitate("tensorrt", "10.3.0").cuda.count = 0
    with pytest.raises(MissingError, match="it needs a GPU and its driver: CUDA initialization failure"):
        build(builder="tensorrt")


def test_on_a_jetson_tensorrt_is_found_in_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(libraries.platform, "machine", lambda: "aarch64")
    with pytest.raises(MissingError, match="part of JetPack: use a virtual environment with --system-site-packages"):
        load_library("tensorrt")


def test_a_folder_that_is_called_like_a_builder_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a_builder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(libraries, "EXTRAS", {"a_builder": "none"})
    assert importlib.util.find_spec("a_builder") is not None
    assert installed_builders() == []
    with pytest.raises(MissingError, match="needs 'none'"):
        load_library("a_builder")  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "a_builder")
    (tmp_path / "a_builder" / "__init__.py").touch()
    importlib.invalidate_caches()
    assert installed_builders() == ["a_builder"]


def test_a_device_at_hand_is_what_rtx_builds_for(imitate: Imitate, build: Callable[..., BuiltEngine]) -> None:
    imitate()
    built = build(device=Device("GeForce", "8.9", "13.0"))
    assert built.fingerprint.compute_capabilities == ("8.9",)
    assert isinstance(load_library("tensorrt_rtx"), Library)
