"""The builder: from an ONNX graph to a serialised engine, for TensorRT and TensorRT for RTX alike."""

import hashlib
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from purify_edge.engines.tensorrt.cudart import Device
from purify_edge.engines.tensorrt.feedback import Log, Progress, interruptible, logger_for, monitor_for, parser_errors
from purify_edge.engines.tensorrt.fingerprint import Fingerprint
from purify_edge.engines.tensorrt.library import RTX_COMPUTE_CAPABILITIES, TURING, Library
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.errors import BuildError, InputError, MissingError
from purify_edge.files import atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

    import tensorrt

MEBIBYTE = 2**20


@dataclass(frozen=True)
class BuiltEngine:
    """A serialised engine, its fingerprint, and the layers that a DLA left to the GPU."""

    content: bytes
    fingerprint: Fingerprint
    gpu_layers: tuple[str, ...] = ()


def build_engine(
    onnx: bytes,
    *,
    library: Library,
    options: BuildOptions,
    precision: str,
    source: str,
    device: Device | None = None,
    progress: Progress | None = None,
) -> BuiltEngine:
    """Build an engine. Precision is a property of the ONNX graph: networks are strongly typed where that exists.

    TensorRT for RTX builds on any machine: for the requested compute capabilities, else for that of `device`, else
    for RTX_COMPUTE_CAPABILITIES. TensorRT builds for the GPU at hand and needs one. Ctrl-C ends a build.

    Args:
        onnx: the model; its input's first axis is the batch.
        library, options: the builder and what is asked of it.
        precision: of the graph.
        source: what errors call the model.
        device: the GPU at hand, for the fingerprint.
        progress: gets how far the build is.

    Raises:
        InputError: this version of the builder lacks a requested feature; says what works.
        MissingError: the builder finds no GPU that it needs.
        BuildError: the parser or the builder refuses the model; the message quotes it.
    """
    options = resolve(options, library, device)
    library.refuse(options, precision)
    log = Log()
    build = _Build(library, options, precision, source, log, logger_for(library.trt, log))
    content, gpu_layers = build.run(onnx, progress)
    portable = bool(options.compute_capabilities)
    fingerprint = Fingerprint(
        onnx_sha256=hashlib.sha256(onnx).hexdigest(),
        builder=library.builder,
        builder_version=library.version,
        precision=precision,
        batch=options.batch,
        compute_capabilities=options.compute_capabilities or ((device.compute_capability,) if device else ()),
        gpu=device.name if device and not portable else None,
        driver=device.driver if device and not portable else None,
        flags=options.flags(),
    )
    return BuiltEngine(content, fingerprint, gpu_layers)


def resolve(options: BuildOptions, library: Library, device: Device | None) -> BuildOptions:
    """Return the options with the compute capabilities that a builder gets where none are requested."""
    if options.compute_capabilities or not library.features.compute_capabilities:
        return options
    capabilities = (device.compute_capability,) if device else RTX_COMPUTE_CAPABILITIES
    return replace(options, compute_capabilities=capabilities)


@dataclass(frozen=True)
class _Build:
    """One build; what is made on the way lives until it ends."""

    library: Library
    options: BuildOptions
    precision: str
    source: str
    log: Log
    logger: "tensorrt.ILogger"

    def run(self, onnx: bytes, progress: Progress | None) -> tuple[bytes, tuple[str, ...]]:
        """Return the serialised engine, and the layers that a DLA left to the GPU."""
        builder = self._builder()
        network = builder.create_network(self._network_flags())
        parser: tensorrt.OnnxParser = self.library.trt.OnnxParser(network, self.logger)
        if not parser.parse(onnx) or not network.num_inputs:
            raise BuildError(f"{self.library.title} cannot parse {self.source}: {parser_errors(parser)}")
        config = self._config(builder, network)
        gpu_layers = self._use_dla(builder, network, config)
        cancelled = threading.Event()
        if self.library.features.progress:
            config.progress_monitor = monitor_for(self.library.trt, progress or (lambda phase, done: None), cancelled)
        with self._timing_cache(config):
            serialized = interruptible(lambda: builder.build_serialized_network(network, config), cancelled)
            if serialized is None:
                raise BuildError(
                    f"{self.library.title} cannot build {self.source}: {self.log.reason()}{self._advice()}"
                )
        return bytes(serialized), gpu_layers

    def _builder(self) -> "tensorrt.Builder":
        try:
            return self.library.trt.Builder(self.logger)
        except Exception as error:  # pybind raises TypeError where CUDA cannot be initialised
            raise MissingError(
                f"{self.library.builder} cannot build here, it needs a GPU and its driver: "
                f"{'; '.join(self.log.errors) or error}"
            ) from error

    def _typed_by_flags(self) -> bool:
        features = self.library.features
        return bool(features.precision_flags or (self.options.dla_core is not None and features.dla_typed_by_flags))

    def _network_flags(self) -> int:
        typed = "STRONGLY_TYPED" if self._typed_by_flags() else ""
        names = (name for name in self.library.features.network_flags if name != typed)
        flags = self.library.trt.NetworkDefinitionCreationFlag
        return sum(1 << int(getattr(flags, name)) for name in names)

    def _config(self, builder: "tensorrt.Builder", network: "tensorrt.INetworkDefinition") -> "tensorrt.IBuilderConfig":
        trt, options = self.library.trt, self.options
        config = builder.create_builder_config()
        config.add_optimization_profile(self._profile(builder, network.get_input(0)))
        for name in self._flags():
            config.set_flag(getattr(trt.BuilderFlag, name))
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * MEBIBYTE)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if options.compute_capabilities:
            config.num_compute_capabilities = len(options.compute_capabilities)
        for index, capability in enumerate(options.compute_capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), index)
        return config

    def _flags(self) -> list[str]:
        features = self.library.features
        flags = list(features.builder_flags)
        if self._typed_by_flags():
            typed = features.precision_flags or {"fp16": "FP16"}
            flags += [typed[self.precision]] if self.precision in typed else []
        if self.options.version_compatible:
            flags.append("VERSION_COMPATIBLE")
        return flags

    def _profile(self, builder: "tensorrt.Builder", tensor: "tensorrt.ITensor") -> "tensorrt.IOptimizationProfile":
        profile = builder.create_optimization_profile()
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, *((size, *rest) for size in self.options.batch))
        return profile

    def _use_dla(
        self, builder: "tensorrt.Builder", network: "tensorrt.INetworkDefinition", config: "tensorrt.IBuilderConfig"
    ) -> tuple[str, ...]:
        core = self.options.dla_core
        if core is None:
            return ()
        if core >= builder.num_DLA_cores:
            raise MissingError(
                f"there is no DLA core {core} here, but {builder.num_DLA_cores}; "
                "Orin NX and AGX Orin have DLAs, Orin Nano and Thor have none; purify-build without --dla takes the GPU"
            )
        trt = self.library.trt
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        tensor = network.get_input(0)
        tensor.shape = (self.options.batch[0], *tuple(tensor.shape)[1:])  # a DLA takes no dynamic shapes
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        return tuple(layer.name for layer in layers if not config.can_run_on_DLA(layer))

    @contextmanager
    def _timing_cache(self, config: "tensorrt.IBuilderConfig") -> "Iterator[None]":
        """Read timings from the file before the build and write them after it: a failed build keeps its timings too."""
        path = self.options.timing_cache
        if path is None:
            yield
            return
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise InputError(f"the timing cache {path} cannot be written to; expected a file in a writable folder")
        cache = config.create_timing_cache(_read(path))
        if cache is None or not config.set_timing_cache(cache, False):
            raise BuildError(
                f"{self.library.title} cannot use the timing cache {path}: {self.log.reason()}; "
                "it fits one version and one GPU: remove it, or name another"
            )
        try:
            yield
        finally:
            with atomic(path) as temporary:
                temporary.write_bytes(bytes(cache.serialize()))

    def _advice(self) -> str:
        if TURING in self.options.compute_capabilities and "Turing" in self.log.reason():
            return (
                f"; for compute capability {TURING} TensorRT for RTX has no float32 matrix products: "
                "export with --fp16, or leave it out"
            )
        return ""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"the timing cache {path} cannot be read ({error.strerror}); name another file") from error
