"""What each version of TensorRT needs and refuses: each is imitated."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from helpers.fixtures import Imitate
from purify_edge.engines.tensorrt import library as libraries
from purify_edge.engines.tensorrt.build import BuiltEngine
from purify_edge.engines.tensorrt.cudart import open_cuda
from purify_edge.engines.tensorrt.library import VERSIONS, load_library
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.engines.tensorrt.targets import BUILDERS
from purify_edge.errors import InputError, MissingError

DLA = {"dla_core": 0, "batch": (1, 1, 1)}
TURING = {"compute_capabilities": ("7.5", "8.6")}
RTX, TENSORRT = "has no {}; TensorRT has .--targets tensorrt", "has no DLA; TensorRT 8.6"
REFUSED = [
    ("rtx 1.7.1 bf16", TURING, r"7\.5 have no bf16, those from 8\.0 on do; leave out 7\.5, or bf16"),
    ("rtx 1.7.1 fp16", DLA, r"RTX 1\.7\.1 has no DLA; TensorRT 8\.6, 10\.1 to 10\.7, and 11\.4\.1"),
    ("rtx 1.7.1 fp16", {"version_compatible": True}, RTX.format("version compatible engines")),
    ("rtx 1.7.1 fp16", {"hardware_compatible": True}, "hardware compatible.*--compute-capability"),
    ("rtx 1.7.1 fp16", {"timing_cache": Path("t")}, RTX.format("timing cache") + "; purify-build: --engine tensorrt"),
    ("rtx 1.7.1 fp16", {"compute_capabilities": ("8.7",)}, "8.7, but for 7.5, 8.0.*need TensorRT"),
    ("tensorrt 10.3.0 fp16", {"compute_capabilities": ("8.6",)}, "for the GPU at hand; .* RTX has .--targets rtx"),
    ("tensorrt 8.6.2 bf16", {}, "builds no bf16 graphs, but fp32, fp16, int8; leave bf16 out"),
    ("tensorrt 10.13.3 fp16", DLA, TENSORRT),
    ("tensorrt 11.4.0 fp16", DLA, TENSORRT),
    ("tensorrt 10.3.0 int8", DLA, "fp16 graphs on a DLA, not int8; .* --fp16 .purify-build: --precision fp16., or"),
    ("tensorrt 11.4.1 fp32", DLA, "runs fp16 and int8 graphs on a DLA, not fp32"),
]


@pytest.mark.parametrize(("asked", "options", "message"), REFUSED)
def test_a_refusal_says_what_does_work(imitate: Imitate, asked: str, options: dict[str, Any], message: str) -> None:
    extra, version, precision = asked.split()
    imitate(BUILDERS[extra], version)
    with pytest.raises(InputError, match=message):
        load_library(BUILDERS[extra]).refuse(BuildOptions(**options), precision)


ACCEPTED = [
    ("8.6.2", "fp32", {}, [], 1),
    ("8.6.2", "fp16", {}, ["FP16"], 1),
    ("8.6.2", "int8", {"version_compatible": True}, ["INT8", "VERSION_COMPATIBLE"], 1),
    ("8.6.2", "fp16", DLA, ["FP16", "GPU_FALLBACK"], 1),
    ("10.3.0", "fp16", {}, [], 2),
    ("10.3.0", "fp16", DLA, ["FP16", "GPU_FALLBACK"], 0),
    ("10.13.3.9", "bf16", {"hardware_compatible": True}, [], 2),
    ("11.0.0", "int8", {}, [], 0),
    ("11.4.1", "fp16", DLA, ["GPU_FALLBACK"], 0),
]


@pytest.mark.parametrize(("version", "precision", "options", "flags", "network_flags"), ACCEPTED)
def test_each_version_of_tensorrt_gets_what_it_needs(
    imitate: Imitate,
    build: Callable[..., BuiltEngine],
    bundle_path: Path,
    version: str,
    precision: str,
    options: dict[str, Any],
    flags: list[str],
    network_flags: int,
) -> None:
    world = imitate("tensorrt", version, name="Orin", capability=(8, 7), driver=12060)
    world.dla_cores = 2
    graph = (bundle_path / "models/purifier.fp16.onnx").read_bytes()
    built = build("purifier", precision, builder="tensorrt", graph=graph, device=open_cuda().device, **options)
    (config,) = world.builds
    assert config.flags == flags
    assert config.network_flags == network_flags
    fingerprint = built.fingerprint
    assert (fingerprint.gpu, fingerprint.compute_capabilities, fingerprint.driver) == ("Orin", ("8.7",), "12.6")
    if "dla_core" in options:
        assert config.own["DLA_core"] == 0
        assert built.gpu_layers
        assert not any("relu" in layer.lower() for layer in built.gpu_layers)
        assert fingerprint.flags["dla_core"] == 0
    else:
        assert built.gpu_layers == ()
    assert ("hardware_compatibility_level" in config.own) == ("hardware_compatible" in options)


def test_a_dla_that_is_not_there_is_told(imitate: Imitate, build: Callable[..., BuiltEngine]) -> None:
    imitate("tensorrt", "10.3.0")
    with pytest.raises(MissingError, match=r"there is no DLA core 0 here, but 0; .*without --dla takes the GPU"):
        build(builder="tensorrt", **DLA)


@pytest.mark.parametrize(
    ("builder", "version", "since"),
    [
        ("tensorrt", "8.6.1.6", (8, 6)),
        ("tensorrt", "10.3.0", (10, 1)),
        ("tensorrt", "10.12.0.36", (10, 8)),
        ("tensorrt", "11.4.0", (11, 0)),
        ("tensorrt", "11.4.1.5", (11, 4, 1)),
        ("tensorrt_rtx", "1.7.1.116", (1, 2)),
    ],
)
def test_a_version_has_the_last_row_that_is_not_newer(
    monkeypatch: pytest.MonkeyPatch, builder: Any, version: str, since: tuple[int, ...]
) -> None:
    assert libraries._features(builder, version).since == since
    assert [row.since for row in VERSIONS[builder]] == sorted(row.since for row in VERSIONS[builder])


@pytest.mark.parametrize("version", ["9.3.0", "10.0.1"])
def test_versions_between_are_refused_with_the_next_that_works(version: str) -> None:
    with pytest.raises(MissingError, match=rf"tensorrt {version} is not supported: needs 10\.1 or newer"):
        libraries._features("tensorrt", version)


def test_a_tensorrt_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old: Any = ModuleType("tensorrt")
    old.__version__, old.Builder = "8.5.2", object
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(MissingError, match=r"tensorrt 8\.5\.2 is too old: needs 8\.6 or newer"):
        load_library("tensorrt")
