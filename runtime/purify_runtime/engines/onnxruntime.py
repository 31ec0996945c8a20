"""ONNX Runtime on the CPU."""

from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_runtime.engine_files import EngineFiles
from purify_runtime.engines import Chain, Engine, HostChain, TensorSpec
from purify_runtime.errors import BundleError, MissingError

DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}
QUIET = 3  # errors only
NOWHERE = "/nonexistent"


def require() -> Any:
    """ONNX Runtime, imported.

    Raises:
        MissingError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError(f"needs 'cpu': pip install 'purify-edge[cpu]' ({error})") from error
    return onnxruntime


class OnnxRuntimeEngine:
    """A session on the CPU execution provider. It has no use for engine files.

    Raises:
        MissingError: onnxruntime is not installed, or its CPU provider is absent.
        BundleError: the graph cannot be loaded.
    """

    name = "onnxruntime"
    device = "cpu"

    def __init__(self, graph: bytes, *, source: str, files: EngineFiles | None = None) -> None:
        onnxruntime = require()
        self.version: str = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.log_severity_level = QUIET
        # Purifier and classifier are two sessions, each with threads of its own. Left to spin between runs, one's
        # threads take the cores from the other: 21 ms instead of 12 for a batch of 32 on two cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # A graph may name other files for its weights; only what the manifest lists is verified.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", NOWHERE)
        try:
            session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            raise BundleError(f"ONNX Runtime cannot load {source}: {error}; export the bundle again") from error
        if len(session.get_inputs()) != 1 or len(session.get_outputs()) != 1:
            raise BundleError(f"{source} must have one input and one output; export the bundle again")
        self._session: Any = session
        self.input_spec = _spec(session.get_inputs()[0])
        self.output_spec = _spec(session.get_outputs()[0])
        self._outputs = [self.output_spec.name]

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine.run`."""
        (output,) = self._session.run(self._outputs, {self.input_spec.name: x})
        result: NDArray[np.float32] = output
        return result

    def then(self, other: Engine) -> Chain:
        """See `Engine.then`."""
        return HostChain(self, other)

    def close(self) -> None:
        """See `Engine.close`."""
        self._session = None

    def __enter__(self) -> "OnnxRuntimeEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _spec(node: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorSpec(node.name, DTYPES.get(node.type, node.type), shape)
