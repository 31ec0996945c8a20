"""TensorRT and TensorRT for RTX: engines built from ONNX. The two share one Python API under two module names."""

import hashlib
import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

from purify_runtime.errors import BuildError, MissingError

Builder = Literal["tensorrt_rtx", "tensorrt"]
EXTRAS: dict[Builder, str] = {"tensorrt_rtx": "rtx", "tensorrt": "tensorrt"}
"""Builder, which is also its module's name -> the extra that installs it."""

RTX_COMPUTE_CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")
"""GPUs of compute capability 8.0, 8.6, 8.9 and 12.0; no Jetson. Turing (SM75) is left out: TensorRT for RTX has no
kernels for float32 matrix products there."""

MIN_MAJOR: dict[Builder, int] = {"tensorrt_rtx": 1, "tensorrt": 10}


@dataclass(frozen=True)
class BuiltEngine:
    """A serialised engine, and what it was built from, with and for: its fingerprint."""

    content: bytes
    fingerprint: dict[str, Any]


def installed_builders() -> list[Builder]:
    """The builders whose package is installed; whether they work shows only when they build."""
    return [builder for builder in EXTRAS if _is_installed(builder)]


def _is_installed(package: str) -> bool:
    """Whether a package is there; a mere folder of its name on the path (a namespace package) is not."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def build_engine(onnx: bytes, *, builder: Builder, batch: tuple[int, int, int], source: str) -> BuiltEngine:
    """Build an engine. Precision is a property of the ONNX graph: networks are strongly typed.

    TensorRT for RTX builds ahead of time for RTX_COMPUTE_CAPABILITIES, on any machine. TensorRT builds for the
    GPU at hand and needs one.

    Args:
        onnx: the model; its input's first axis is the batch.
        builder: which of the two.
        batch: smallest, usual and largest batch.
        source: what errors call the model.

    Raises:
        MissingError: the builder is not installed, too old, or finds no GPU that it needs.
        BuildError: the parser or the builder refuses the model; its own words are in the message.
    """
    trt = _import(builder)
    errors: list[str] = []
    logger = _logger(trt, errors)
    try:
        trt_builder = trt.Builder(logger)
    except Exception as error:  # pybind raises TypeError where CUDA cannot be initialised
        raise MissingError(
            f"{builder} cannot build here, it needs a GPU and its driver: {'; '.join(errors) or error}"
        ) from error
    network = trt_builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx) or not network.num_inputs:
        raise BuildError(f"{builder} {trt.__version__} cannot parse {source}: {_parser_errors(parser)}")
    config = trt_builder.create_builder_config()
    config.add_optimization_profile(_profile(trt_builder, network.get_input(0), batch))
    capabilities = list(RTX_COMPUTE_CAPABILITIES) if builder == "tensorrt_rtx" else []
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    serialized = trt_builder.build_serialized_network(network, config)
    if serialized is None:
        raise BuildError(f"{builder} {trt.__version__} cannot build {source}: {'; '.join(errors) or 'no reason given'}")
    fingerprint = {
        "onnx_sha256": hashlib.sha256(onnx).hexdigest(),
        "builder_version": trt.__version__,
        "compute_capabilities": capabilities,
        "batch": list(batch),
    }
    return BuiltEngine(bytes(serialized), fingerprint)


def _import(builder: Builder) -> Any:
    try:
        trt = importlib.import_module(builder)
    except Exception as error:  # a missing shared library may surface as almost anything
        extra = EXTRAS[builder]
        raise MissingError(f"needs '{extra}': pip install 'purify-edge[{extra}]' ({error})") from error
    if int(trt.__version__.partition(".")[0]) < MIN_MAJOR[builder]:
        raise MissingError(f"{builder} {trt.__version__} is too old: needs {MIN_MAJOR[builder]} or newer")
    return trt


def _logger(trt: Any, errors: list[str]) -> Any:
    """A logger that keeps the errors: TensorRT tells the reason of a failure nowhere else."""
    serious = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base is known only at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in serious:
                errors.append(message)

    return Logger()


def _profile(trt_builder: Any, tensor: Any, batch: tuple[int, int, int]) -> Any:
    profile = trt_builder.create_optimization_profile()
    rest = tuple(tensor.shape)[1:]
    profile.set_shape(tensor.name, *((size, *rest) for size in batch))
    return profile


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    told = [f"{error.node_name()} ({error.node_operator()}): {error.desc()}" for error in errors]
    return "; ".join(told) or "it is no ONNX model with an input"
