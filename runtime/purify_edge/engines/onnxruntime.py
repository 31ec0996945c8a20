"""ONNX Runtime on the CPU."""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from purify_edge.engines.base import Array, CpuSettings, Engine, TensorSpec
from purify_edge.engines.tensorrt.store import EngineFiles
from purify_edge.errors import BundleError, MissingError
from purify_edge.extras import require_library

DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}
QUIET = 3  # errors only
NOWHERE = "/nonexistent"
CRASHING = ["FuseFp16InitializerToFp32NodeTransformer"]
"""Optimisers to do without: with this one ONNX Runtime 1.32 ends the process on some transformers in float16."""
NO_KERNELS = "ONNX Runtime has no kernels for"


def require() -> Any:
    """Return ONNX Runtime, imported.

    Raises:
        MissingError: it is not installed.
    """
    return require_library("onnxruntime", "cpu")


class OnnxRuntimeEngine(Engine):
    """Run a graph in a session on the CPU execution provider; it needs no engine files.

    Two sessions in a row hand over by numpy: ONNX Runtime reads a contiguous array where it lies, and binding
    the first's output to the second's input saved nothing that could be measured (docs/results/runtime.md).

    Raises:
        MissingError: onnxruntime is not installed, or has no kernels for the graph: on a CPU it has none for bfloat16.
        BundleError: the graph cannot be loaded.
    """

    name = "onnxruntime"
    device: str = "cpu"
    settings: tuple[tuple[str, str], ...] = ()  # further entries of the session's configuration

    def __init__(
        self, graph: bytes, *, source: str, files: EngineFiles | None = None, settings: CpuSettings | None = None
    ) -> None:
        onnxruntime = require()
        self.version: str = onnxruntime.__version__
        options = session_options(onnxruntime, settings or CpuSettings())
        for key, value in self.settings:
            options.add_session_config_entry(key, value)
        self._session: Any = open_session(onnxruntime, graph, options, ["CPUExecutionProvider"], source)
        self.input_spec = spec(self._session.get_inputs()[0])
        self.output_spec = spec(self._session.get_outputs()[0])
        self._outputs = [self.output_spec.name]

    def run(self, x: Array) -> Array:
        """See `Engine.run`."""
        (output,) = self._session.run(self._outputs, {self.input_spec.name: x})
        result: Array = output
        return result

    def close(self) -> None:
        """See `Closing.close`."""
        self._session = None


def lossy_precisions() -> frozenset[str]:
    """Return the lossy precisions that may be faster than float32 here."""
    return frozenset({"int8"})


def session_options(onnxruntime: Any, settings: CpuSettings) -> Any:
    """Return the options that every session of ours has, and what the settings say."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    # Threads that stay awake between calls take the cores from other sessions and programs.
    if settings.cores != "awake":
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if settings.cores == "one":
        options.intra_op_num_threads = 1
    # A graph may name other files for its weights; only what the manifest lists is verified.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NOWHERE)
    return options


def open_session(onnxruntime: Any, graph: bytes, options: Any, providers: list[Any], source: str) -> Any:
    """Open a session of a graph with one input and one output.

    Raises:
        MissingError: ONNX Runtime has no kernels for it.
        BundleError: it cannot be loaded, or has more.
    """
    session = _opened(onnxruntime, graph, options, providers, source)
    if len(session.get_inputs()) != 1 or len(session.get_outputs()) != 1:
        raise BundleError(f"{source} must have one input and one output; export the bundle again")
    return session


def all_outputs(graph: bytes, *, source: str) -> Callable[[NDArray[Any]], dict[str, Array]]:
    """Return what runs a graph with one input, and gives its outputs by their names.

    Raises:
        MissingError: ONNX Runtime is not installed, or has no kernels for it.
        BundleError: it cannot be loaded.
    """
    onnxruntime = require()
    options = session_options(onnxruntime, CpuSettings())
    session = _opened(onnxruntime, graph, options, ["CPUExecutionProvider"], source)
    (name,) = (node.name for node in session.get_inputs())
    names = [node.name for node in session.get_outputs()]
    return lambda x: dict(zip(names, session.run(names, {name: x}), strict=True))


def _opened(onnxruntime: Any, graph: bytes, options: Any, providers: list[Any], source: str) -> Any:
    try:
        session: Any = onnxruntime.InferenceSession(graph, options, providers=providers, disabled_optimizers=CRASHING)
    except _no_kernels(onnxruntime) as error:
        raise MissingError(f"{NO_KERNELS} {source} here ({error})") from error
    except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
        raise BundleError(f"ONNX Runtime cannot load {source}: {error}; export the bundle again") from error
    return session


def _no_kernels(onnxruntime: Any) -> type[Exception]:
    """Return what ONNX Runtime raises where the graph is sound and it has no kernel for an operator and a type."""
    raised: type[Exception] = onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented
    return raised


def spec(node: Any) -> TensorSpec:
    """Return name, dtype and shape of a session's input or output."""
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorSpec(node.name, DTYPES.get(node.type, node.type), shape)
