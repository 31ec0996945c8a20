"""TensorRT without a GPU: TensorRT for RTX really parses and builds; what it built is run by ONNX Runtime.

A version of either library is imitated: what that version lacks is not there, and what it demands is demanded. An
engine's file is the real one's graph in an envelope with a checksum, so that damaged files and those of other versions
and GPUs are refused as TensorRT refuses them: None, and the reason in the log.
"""

import ctypes
import hashlib
import json
import threading
import weakref
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from helpers.fake_cuda import FakeCuda, Refused

MAGIC = b"FAKE"
SCRATCH_BYTES = 4096


def fake_tensorrt(real: Any, cuda: FakeCuda, *, builder: str, version: str) -> ModuleType:
    """The module `tensorrt` or `tensorrt_rtx` in a version."""
    module: Any = ModuleType(builder)
    for name in ("ILogger", "IProgressMonitor", "MemoryPoolType", "DeviceType", "TensorIOMode", "DataType",
                 "ExecutionContextAllocationStrategy", "HardwareCompatibilityLevel"):  # fmt: skip
        setattr(module, name, getattr(real, name))
    module.__version__ = version
    module.world = world = World(real, cuda, builder, version)
    rtx = builder == "tensorrt_rtx"
    flags = ["GPU_FALLBACK", "VERSION_COMPATIBLE"] + (["REQUIRE_USER_ALLOCATION"] if rtx else [])
    flags += ["FP16", "INT8"] if world.major < 11 and not rtx else []
    module.BuilderFlag = SimpleNamespace(**{name: name for name in flags})
    network_flags = {"EXPLICIT_BATCH": 0} if world.major < 10 and not rtx else {}
    network_flags |= {} if world.major == 8 else {"STRONGLY_TYPED": 1}
    module.NetworkDefinitionCreationFlag = SimpleNamespace(**network_flags)
    if rtx:
        module.ComputeCapability = real.ComputeCapability
        module.DynamicShapesKernelSpecializationStrategy = real.DynamicShapesKernelSpecializationStrategy
    for kind in (Builder, OnnxParser, Runtime):
        setattr(module, kind.__name__, type(kind.__name__, (kind,), {"world": world}))
    return module


class World:
    """What all objects of one imitated library share, and what a test may look at or spoil."""

    def here(self) -> str:
        """The GPU's compute capability, as TensorRT for RTX names it."""
        return "SM{}{}".format(*self.cuda.capability)

    def __init__(self, real: Any, cuda: FakeCuda, builder: str, version: str) -> None:
        self.real, self.cuda, self.builder, self.version = real, cuda, builder, version
        self.major = int(version.partition(".")[0])
        self.rtx = builder == "tensorrt_rtx"
        self.dla_cores = 0
        self.builds: list[Config] = []
        self.deserialised = 0
        self.refuse_runtime = self.refuse_build = self.refuse_load = False
        self.refuse_capture = self.refuse_enqueue_in_capture = False
        self.contexts: weakref.WeakSet[Context] = weakref.WeakSet()
        self.engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Wrapped:
    """An object of the real library; what is asked of it that is not imitated, it is asked itself."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Config(Wrapped):
    """Remembers what was set, and hands on what the real builder can do here."""

    OWN = frozenset({"default_device_type", "DLA_core", "hardware_compatibility_level"})

    def __init__(self, world: World, real: Any) -> None:
        self.__dict__.update(world=world, real=real, flags=[], own={}, profile=None, network_flags=0, timings=None)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "progress_monitor" and self.world.major == 8:
            raise AttributeError(name)
        if name in self.OWN:
            self.own[name] = value
        else:
            setattr(self.real, name, value)

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)

    def add_optimization_profile(self, profile: Any) -> int:
        self.__dict__["profile"] = profile
        return int(self.real.add_optimization_profile(profile))

    def can_run_on_DLA(self, layer: Any) -> bool:
        return "relu" in layer.name.lower()

    def create_timing_cache(self, content: bytes) -> Any:
        if content and not content.startswith(b"timings"):
            return None
        self.__dict__["timings"] = content
        return SimpleNamespace(serialize=lambda: b"timings" + bytes(len(content) + 1))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return True


class Builder(Wrapped):
    world: World

    def __init__(self, logger: Any) -> None:
        if not self.world.rtx and not self.world.cuda.count:
            logger.log(self.world.real.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        super().__init__(self.world.real.Builder(logger))
        self.logger, self.num_DLA_cores = logger, self.world.dla_cores

    def create_network(self, flags: int) -> Wrapped:
        if self.world.major == 8 and flags != 1:
            raise RuntimeError("the ONNX parser needs an explicit batch")
        typed = 1 << int(self.world.real.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = Wrapped(self.real.create_network(typed))  # the real builder knows nothing else
        network.flags = flags
        return network

    def create_builder_config(self) -> Config:
        return Config(self.world, self.real.create_builder_config())

    def build_serialized_network(self, network: Wrapped, config: Config) -> bytes | None:
        config.__dict__["network_flags"] = network.flags
        self.world.builds.append(config)
        if self.world.refuse_build or self.real.build_serialized_network(network.real, config.real) is None:
            if self.world.refuse_build:
                self.logger.log(self.world.real.ILogger.Severity.ERROR, "Could not find any implementation for node x")
            return None
        name = network.get_input(0).name
        count = config.real.num_compute_capabilities if self.world.rtx else 0
        capabilities = [config.real.get_compute_capability(index).name for index in range(count)]
        header = {
            "version": self.world.version,
            "builder": self.world.builder,
            "compatible": "VERSION_COMPATIBLE" in config.flags,
            "capabilities": capabilities or [self.world.here()],
            "profile": [list(shape) for shape in config.profile.get_shape(name)],
        }
        return seal(header, network.onnx)


def seal(header: dict[str, Any], onnx: bytes) -> bytes:
    """An engine's file."""
    text = json.dumps(header).encode()
    body = MAGIC + len(text).to_bytes(4, "little") + text + onnx
    return body + hashlib.sha256(body).digest()


class OnnxParser(Wrapped):
    world: World

    def __init__(self, network: Wrapped, logger: Any) -> None:
        super().__init__(self.world.real.OnnxParser(network.real, logger))
        self.network = network

    def parse(self, model: bytes) -> bool:
        self.network.onnx = model
        return bool(self.real.parse(model))


class Runtime:
    world: World

    def __init__(self, logger: Any) -> None:
        if self.world.refuse_runtime:
            logger.log(self.world.real.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.logger, self.engine_host_code_allowed = logger, False

    def deserialize_cuda_engine(self, content: bytes) -> "Engine | None":
        self.world.deserialised += 1
        reason = self._refusal(content)
        if reason:
            self.logger.log(self.world.real.ILogger.Severity.ERROR, reason)
            return None
        size = int.from_bytes(content[4:8], "little")
        return Engine(self.world, json.loads(content[8 : 8 + size]), content[8 + size : -32])

    def _refusal(self, content: bytes) -> str:
        if self.world.refuse_load:
            return "Requested amount of GPU memory could not be allocated."
        if content[:4] != MAGIC or hashlib.sha256(content[:-32]).digest() != content[-32:]:
            return "Serialization assertion magicTagRead == kMAGIC_TAG failed."
        header = json.loads(content[8 : 8 + int.from_bytes(content[4:8], "little")])
        same = (header["builder"], header["version"]) == (self.world.builder, self.world.version)
        if not same and not (header["compatible"] and self.engine_host_code_allowed):
            return "The engine plan file is not compatible with this version of TensorRT."
        if self.world.here() not in header["capabilities"]:
            return "The engine plan file is generated on an incompatible device."
        return ""


class Engine:
    def __init__(self, world: World, header: dict[str, Any], onnx: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        self.world, self.profile = world, header["profile"]
        world.engines.add(self)
        self.session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        self.input, self.output = self.session.get_inputs()[0], self.session.get_outputs()[0]
        self.num_io_tensors = 2
        if world.major == 8:
            self.device_memory_size = SCRATCH_BYTES
        else:
            self.device_memory_size_v2 = SCRATCH_BYTES

    def get_tensor_name(self, index: int) -> str:
        return str((self.input, self.output)[index].name)

    def get_tensor_mode(self, name: str) -> Any:
        mode = self.world.real.TensorIOMode
        return mode.INPUT if name == self.input.name else mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self.world.real.DataType.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        node = self.input if name == self.input.name else self.output
        return tuple(size if isinstance(size, int) else -1 for size in node.shape)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[list[int]]:
        assert (name, index) == (self.input.name, 0)
        return list(self.profile)

    def create_execution_context_without_device_memory(self) -> "Context":
        if self.world.major != 8:
            raise AttributeError("create_execution_context_without_device_memory")
        return Context(self)

    def create_execution_context(self, how: Any) -> "Context":
        user_managed = self.world.real.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.world.major == 8 or isinstance(how, SimpleNamespace) != self.world.rtx:
            raise TypeError("create_execution_context(): incompatible function arguments")
        assert (how.strategy if self.world.rtx else how) == user_managed
        return Context(self)

    def create_runtime_config(self) -> Any:
        if not self.world.rtx:
            raise AttributeError("create_runtime_config")
        config = SimpleNamespace(strategy=None, dynamic_shapes_kernel_specialization_strategy=None)
        config.set_execution_context_allocation_strategy = lambda strategy: setattr(config, "strategy", strategy)
        return config


class Context:
    """An execution context: refuses what TensorRT refuses, and what it would crash on is a violation."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.world, self.cuda = engine, engine.world, engine.world.cuda
        self.shape: tuple[int, ...] | None = None
        self.addresses: dict[str, int] = {}
        self.scratch: tuple[int, int] | None = None
        self.prepared = False
        self.pending: int | None = None  # the stream with unfinished work of this context
        self.thread = threading.Lock()
        self.world.contexts.add(self)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "device_memory":
            if self.world.major != 8:
                raise AttributeError("device_memory is deprecated: use set_device_memory")
            self.scratch = (value, SCRATCH_BYTES)
        else:
            object.__setattr__(self, name, value)

    def set_device_memory(self, memory: int, size: int) -> None:
        if self.world.major == 8:
            raise AttributeError("set_device_memory")
        self.scratch = (memory, size)

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        least, _, most = self.engine.profile
        fits = name == self.engine.input.name and len(shape) == len(most)
        if not fits or not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            return False
        self.shape, self.prepared = tuple(shape), False
        return True

    def infer_shapes(self) -> list[str]:
        return [] if self.shape else [self.engine.input.name]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if not memory:
            return False
        self.addresses[name] = memory
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        if not self.world.rtx:
            raise AttributeError("is_stream_capturable")
        return not self.world.refuse_capture

    def execute_async_v3(self, handle: int) -> bool:
        if not self.thread.acquire(blocking=False):
            self.cuda.violations.append("one context in two threads at once")
            return False
        try:
            with self.cuda.lock:
                return self._enqueue(handle)
        except Refused as refused:
            self.cuda.violations.append(f"execute_async_v3: {refused.violation}")
            return False
        finally:
            self.thread.release()

    def _enqueue(self, handle: int) -> bool:
        stream = self.cuda.stream(handle)
        self._require(self.shape is not None, "a shape that is not set")
        self._require(self.scratch is not None and self.scratch[1] >= SCRATCH_BYTES, "no scratch memory")
        self._require(len(self.addresses) == 2, "an address that is not set")
        self._require(self.pending in (None, handle), "the context has unfinished work on another stream")
        if stream.capturing is not None:
            self._require(self.prepared, "a capture before the first run with this shape")
            if self.world.refuse_enqueue_in_capture:
                return False
            if self.world.refuse_capture:
                stream.spoilt = True
                return False
        self._buffers()
        self.prepared, self.pending = True, handle if stream.capturing is None else None
        alive = weakref.ref(self)  # a graph does not keep its contexts

        def work() -> None:
            context = alive()
            if context is None:
                raise Refused(1, "a graph whose context is gone")
            context.compute()

        self.cuda.enqueue(handle, work)
        return True

    @staticmethod
    def _require(condition: bool, violation: str) -> None:
        if not condition:
            raise Refused(1, violation)

    def _buffers(self) -> tuple[Any, Any]:
        assert self.shape is not None
        assert self.scratch is not None
        counts = (int(np.prod(self.shape)), self.shape[0] * int(np.prod(self.engine.get_tensor_shape("")[1:])))
        names = (self.engine.input.name, self.engine.output.name)
        regions = (
            self.cuda.region(self.addresses[name], 4 * n, "device") for name, n in zip(names, counts, strict=True)
        )
        self.cuda.region(self.scratch[0], SCRATCH_BYTES, "device")
        source, target = (np.frombuffer(region, np.float32) for region in regions)
        return source, target

    def compute(self) -> None:
        source, target = self._buffers()
        assert self.shape is not None
        assert self.scratch is not None
        ctypes.memset(self.scratch[0], 0xAB, SCRATCH_BYTES)  # whoever keeps anything there loses it
        (output,) = self.engine.session.run(None, {self.engine.input.name: source.reshape(self.shape).copy()})
        target[:] = output.reshape(-1)
        self.pending = None
