"""TensorRT's library: imported when needed, and what each of its versions has."""

import importlib
import importlib.util
import platform
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.errors import InputError, MissingError

if TYPE_CHECKING:
    import tensorrt

Builder = Literal["tensorrt", "tensorrt_rtx"]
EXTRAS: Mapping[Builder, str] = MappingProxyType({"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"})
"""Builder, which is also its module's name -> the extra that installs it, which is also its engine's name."""
TITLES: Mapping[Builder, str] = MappingProxyType({"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"})

RTX_COMPUTE_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
"""What TensorRT for RTX builds for unless told otherwise. Turing (7.5) is left out: there it has no float32 matrix
products, so that most classifiers in float32 cannot be built."""

TURING = "7.5"
TYPED = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class Features:
    """What the versions of a builder have, from `since` on.

    Where networks are strongly typed, the graph's own types are the engine's.
    """

    since: tuple[int, ...]
    supported: bool = True  # no JetPack has the others, and they are not worth separate code
    network_flags: tuple[str, ...] = ()  # of NetworkDefinitionCreationFlag
    precision_flags: Mapping[str, str] | None = None  # precision -> BuilderFlag, where the builder types the network
    precisions: tuple[str, ...] = TYPED  # of the graphs that can be built
    builder_flags: tuple[str, ...] = ()  # always set
    dla: bool = False  # a deep learning accelerator can be used
    dla_typed_by_flags: bool = False  # the networks for it are weakly typed
    compute_capabilities: bool = False  # it builds ahead of time, for GPUs that need not be there
    compatible: bool = True  # engines can be made version and hardware compatible
    timing_cache: bool = True
    progress: bool = True  # builds tell their progress and can be cancelled
    memory_size: str = "device_memory_size_v2"  # the attribute of an engine: bytes of its contexts' scratch memory
    user_memory: Literal["method", "strategy", "runtime_config"] = "strategy"  # how scratch memory of ours is given
    stream_capturable: bool = False  # a context must be asked if it can be captured in a CUDA graph


VERSIONS: Mapping[Builder, tuple[Features, ...]] = MappingProxyType(
    {
        "tensorrt": (
            Features(  # JetPack 6.0; the last with weak typing only
                since=(8, 6),
                network_flags=("EXPLICIT_BATCH",),
                precision_flags=MappingProxyType({"fp16": "FP16", "int8": "INT8"}),
                precisions=("fp32", "fp16", "int8"),
                dla=True,
                progress=False,
                memory_size="device_memory_size",
                user_memory="method",
            ),
            Features(since=(8, 7), supported=False),  # 9 and 10.0, on their way to the names of 10.1
            Features(  # JetPack 6.1 and 6.2 have 10.3
                since=(10, 1), network_flags=("STRONGLY_TYPED",), dla=True, dla_typed_by_flags=True
            ),
            Features(since=(10, 8), network_flags=("STRONGLY_TYPED",)),  # without DLA; JetPack 7.1 has 10.13
            Features(since=(11, 0)),  # strong typing is implied, weak typing gone; still no DLA
            Features(since=(11, 4, 1), dla=True),  # DLA on Orin again, from JetPack 7.2.2 on
        ),
        "tensorrt_rtx": (
            Features(
                since=(1, 2),
                network_flags=("STRONGLY_TYPED",),
                builder_flags=("REQUIRE_USER_ALLOCATION",),  # without it a CUDA graph cannot be captured
                compute_capabilities=True,
                compatible=False,
                timing_cache=False,
                user_memory="runtime_config",
                stream_capturable=True,
            ),
        ),
    }
)
"""Builder -> its versions, oldest first; a version has the last row that is not newer than it."""


@dataclass(frozen=True)
class Library:
    """An imported builder: its module, and what it has."""

    builder: Builder
    trt: "tensorrt.Module"
    features: Features

    @property
    def version(self) -> str:
        """Return the library's version."""
        return str(self.trt.__version__)

    @property
    def extra(self) -> str:
        """Return the extra that installs it, which is also its engine's name."""
        return EXTRAS[self.builder]

    @property
    def title(self) -> str:
        """Return what users call it, with its version."""
        return f"{TITLES[self.builder]} {self.version}"

    def refuse(self, options: BuildOptions, precision: str) -> None:
        """Check that this version has all that is requested.

        Raises:
            InputError: it has not; says what does work.
        """
        features = self.features
        if precision not in features.precisions:
            works = ", ".join(features.precisions)
            raise InputError(f"{self.title} builds no {precision} graphs, but {works}; leave {precision} out")
        asked = {
            "DLA": (options.dla_core is not None, features.dla, _DLA),
            "version compatible engines": (options.version_compatible, features.compatible, _TENSORRT),
            "hardware compatible engines": (options.hardware_compatible, features.compatible, _AHEAD),
            "timing cache": (options.timing_cache is not None, features.timing_cache, _TENSORRT),
            "choice of compute capabilities": (options.compute_capabilities, features.compute_capabilities, _AT_HAND),
        }
        for what, (wanted, there, advice) in asked.items():
            if wanted and not there:
                raise InputError(f"{self.title} has no {what}; {advice}")
        if options.dla_core is not None:
            self._refuse_dla(precision)
        self._refuse_capabilities(options.compute_capabilities, precision)

    def _refuse_dla(self, precision: str) -> None:
        able = ("fp16",) if self.features.precision_flags or self.features.dla_typed_by_flags else ("fp16", "int8")
        if precision not in able:
            raise InputError(
                f"{self.title} runs {' and '.join(able)} graphs on a DLA, not {precision}; "
                f"export with --{able[0]} (purify-build: --precision {able[0]}), or leave out --dla"
            )

    def _refuse_capabilities(self, capabilities: tuple[str, ...], precision: str) -> None:
        known = self.compute_capabilities()
        unknown = [capability for capability in capabilities if capability not in known]
        if unknown:
            raise InputError(
                f"{self.title} does not build for compute capability {', '.join(unknown)}, but for {', '.join(known)}; "
                "Jetsons and data centre GPUs of 9.0 and later need TensorRT"
            )
        if precision == "bf16" and TURING in capabilities:
            raise InputError(
                f"GPUs of compute capability {TURING} have no bf16, those from 8.0 on do; leave out {TURING}, or bf16 "
                f"(purify-build: --precision fp16)"
            )

    def compute_capabilities(self) -> list[str]:
        """Return the compute capabilities that it builds ahead of time for."""
        if not self.features.compute_capabilities:
            return []
        names = [name for name in self.trt.ComputeCapability.__members__ if name.startswith("SM")]
        return [f"{name[2:-1]}.{name[-1]}" for name in sorted(names, key=lambda name: int(name[2:]))]


_TENSORRT = "TensorRT has (--targets tensorrt; purify-build: --engine tensorrt)"
_AT_HAND = "it builds for the GPU at hand; TensorRT for RTX has (--targets rtx; purify-build: --engine rtx)"
_AHEAD = "TensorRT for RTX builds for several GPUs by --compute-capability, TensorRT by --hardware-compatible"
_DLA = "TensorRT 8.6, 10.1 to 10.7, and 11.4.1 or later on an Orin have; without --dla it runs on the GPU"


def is_installed(builder: Builder) -> bool:
    """Return whether a builder's package is there; a mere folder of its name (a namespace package) is not."""
    if builder in sys.modules:
        return sys.modules[builder] is not None
    spec = importlib.util.find_spec(builder)
    return spec is not None and spec.origin is not None


def load_library(builder: Builder) -> Library:
    """Import a builder's library.

    Raises:
        MissingError: it is not installed, cannot be loaded, or is too old.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trt = importlib.import_module(builder)
        version = trt.__version__  # a folder that is called like it has none
        trt.Builder  # noqa: B018
    except Exception as error:  # a missing shared library may surface as almost anything
        extra = EXTRAS[builder]
        message = f"needs '{extra}': pip install 'purify-edge[{extra}]' ({error})"
        if builder == "tensorrt" and platform.machine() == "aarch64":
            message += "; on a Jetson it is part of JetPack: use a virtual environment with --system-site-packages"
        raise MissingError(message) from error
    return Library(builder, trt, _features(builder, version))


def _features(builder: Builder, version: str) -> Features:
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    rows = [features for features in VERSIONS[builder] if features.since <= numbers]
    if not rows:
        oldest = ".".join(map(str, VERSIONS[builder][0].since))
        raise MissingError(f"{builder} {version} is too old: needs {oldest} or newer")
    if not rows[-1].supported:
        newer = next(row for row in VERSIONS[builder] if row.since > numbers and row.supported)
        raise MissingError(f"{builder} {version} is not supported: needs {'.'.join(map(str, newer.since))} or newer")
    return rows[-1]


def installed_builders() -> list[Builder]:
    """Return the builders whose package is installed; whether they work shows only when they build."""
    return [builder for builder in EXTRAS if is_installed(builder)]
