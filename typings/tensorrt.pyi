"""What purify-edge uses of TensorRT's Python API, and nothing else: mypy refuses any other attribute.

A test holds every name below against `tensorrt_rtx` and against tensorrt-stubs (which mypy cannot parse). Names that
only one of the two libraries, or only some versions, have are marked; the table in `engines/trt/library.py` says when
they are used.
"""

from collections.abc import Sequence
from typing import Protocol

Shape = Sequence[int]

class ILogger:
    class Severity:
        INTERNAL_ERROR: ILogger.Severity
        ERROR: ILogger.Severity
        WARNING: ILogger.Severity

    def log(self, severity: ILogger.Severity, msg: str) -> None: ...

class IProgressMonitor:  # from 10 on
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
    def phase_finish(self, phase_name: str) -> None: ...
    def step_complete(self, phase_name: str, step: int) -> bool: ...

class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED: NetworkDefinitionCreationFlag  # from 10 on
    EXPLICIT_BATCH: NetworkDefinitionCreationFlag  # TensorRT only
    def __int__(self) -> int: ...

class BuilderFlag:
    FP16: BuilderFlag  # TensorRT only
    INT8: BuilderFlag  # TensorRT only
    GPU_FALLBACK: BuilderFlag
    VERSION_COMPATIBLE: BuilderFlag
    REQUIRE_USER_ALLOCATION: BuilderFlag  # RTX only

class MemoryPoolType:
    WORKSPACE: MemoryPoolType

class DeviceType:
    DLA: DeviceType

class HardwareCompatibilityLevel:
    AMPERE_PLUS: HardwareCompatibilityLevel

class TensorIOMode:
    INPUT: TensorIOMode

class DataType:
    FLOAT: DataType

class ExecutionContextAllocationStrategy:
    USER_MANAGED: ExecutionContextAllocationStrategy

class ComputeCapability:  # RTX only
    __members__: dict[str, ComputeCapability]

class DynamicShapesKernelSpecializationStrategy:  # RTX only
    EAGER: DynamicShapesKernelSpecializationStrategy

class IHostMemory:
    nbytes: int
    def __buffer__(self, flags: int, /) -> memoryview: ...

class ITensor:
    name: str
    shape: Shape

class ILayer:
    name: str

class INetworkDefinition:
    num_inputs: int
    num_layers: int
    def get_input(self, index: int) -> ITensor: ...
    def get_layer(self, index: int) -> ILayer: ...

class IOptimizationProfile:
    def set_shape(self, input: str, min: Shape, opt: Shape, max: Shape) -> None: ...

class ITimingCache:
    def serialize(self) -> IHostMemory: ...

class IBuilderConfig:
    builder_optimization_level: int
    hardware_compatibility_level: HardwareCompatibilityLevel
    default_device_type: DeviceType
    DLA_core: int
    progress_monitor: IProgressMonitor
    num_compute_capabilities: int  # RTX only
    def set_compute_capability(self, compute_capability: ComputeCapability, index: int) -> None: ...  # RTX only
    def add_optimization_profile(self, profile: IOptimizationProfile) -> int: ...
    def set_flag(self, flag: BuilderFlag) -> None: ...
    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None: ...
    def can_run_on_DLA(self, layer: ILayer) -> bool: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None: ...
    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool: ...

class Builder:
    num_DLA_cores: int
    def __init__(self, logger: ILogger) -> None: ...
    def create_network(self, flags: int) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def create_optimization_profile(self) -> IOptimizationProfile: ...
    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None: ...

class ParserError:
    def node(self) -> int: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...
    def desc(self) -> str: ...

class OnnxParser:
    num_errors: int
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None: ...
    def parse(self, model: bytes) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...

class IRuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy: DynamicShapesKernelSpecializationStrategy  # RTX only
    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None: ...

class IExecutionContext:
    device_memory: int  # 8.6
    def set_device_memory(self, memory: int, size: int) -> None: ...
    def set_input_shape(self, name: str, shape: Shape) -> bool: ...
    def infer_shapes(self) -> list[str]: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...
    def is_stream_capturable(self, stream: int) -> bool: ...  # RTX only

class ICudaEngine:
    num_io_tensors: int
    device_memory_size: int  # TensorRT only
    device_memory_size_v2: int
    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> TensorIOMode: ...
    def get_tensor_dtype(self, name: str) -> DataType: ...
    def get_tensor_shape(self, name: str) -> Shape: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Shape]: ...
    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy | IRuntimeConfig
    ) -> IExecutionContext | None: ...
    def create_execution_context_without_device_memory(self) -> IExecutionContext | None: ...  # TensorRT only
    def create_runtime_config(self) -> IRuntimeConfig: ...

class Runtime:
    engine_host_code_allowed: bool
    def __init__(self, logger: ILogger) -> None: ...
    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None: ...

class Module(Protocol):
    """The module `tensorrt`, or `tensorrt_rtx`; of this file only."""

    __version__: str
    ILogger: type[ILogger]
    IProgressMonitor: type[IProgressMonitor]
    NetworkDefinitionCreationFlag: type[NetworkDefinitionCreationFlag]
    BuilderFlag: type[BuilderFlag]
    MemoryPoolType: type[MemoryPoolType]
    DeviceType: type[DeviceType]
    HardwareCompatibilityLevel: type[HardwareCompatibilityLevel]
    TensorIOMode: type[TensorIOMode]
    DataType: type[DataType]
    ExecutionContextAllocationStrategy: type[ExecutionContextAllocationStrategy]
    ComputeCapability: type[ComputeCapability]
    DynamicShapesKernelSpecializationStrategy: type[DynamicShapesKernelSpecializationStrategy]
    Builder: type[Builder]
    OnnxParser: type[OnnxParser]
    Runtime: type[Runtime]
