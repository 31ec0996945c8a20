"""ONNX Runtime on the CPU."""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.engines import ByHand, Chain, Engine, HostChain, HostOptions, TensorSpec
from purify_edge.engines.tensorrt.store import EngineFiles
from purify_edge.errors import BundleError, MissingError

DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}
QUIET = 3  # errors only
NOWHERE = "/nonexistent"
CRASHING = ["FuseFp16InitializerToFp32NodeTransformer"]
"""Optimisers to do without: with this one ONNX Runtime 1.32 ends the process on some transformers in float16."""
NO_KERNELS = "ONNX Runtime has no kernels for"
NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""From 1.29 on the packages for Linux send the machine's and the model's particulars to Microsoft, unless this is set
before the import."""


def require() -> Any:
    """ONNX Runtime, imported.

    Raises:
        MissingError: it is not installed.
    """
    return require_module("cpu")


def require_module(extra: str) -> Any:
    """The module, which the extras `cpu` and `gpu` both bring.

    Raises:
        MissingError: it is not installed.
    """
    os.environ.setdefault(NO_TELEMETRY, "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError(f"needs '{extra}': pip install 'purify-edge[{extra}]' ({error})") from error
    return onnxruntime


class OnnxRuntimeEngine:
    """A session on the CPU execution provider. It has no use for engine files.

    Two sessions in a row hand over by numpy: ONNX Runtime reads a contiguous array where it lies, and binding
    the first's output to the second's input saved nothing that could be measured (docs/results/runtime.md).

    Raises:
        MissingError: onnxruntime is not installed, or has no kernels for the graph: on a CPU it has none for bfloat16.
        BundleError: the graph cannot be loaded.
    """

    name = "onnxruntime"
    device: str = "cpu"

    def __init__(
        self, graph: bytes, *, source: str, files: EngineFiles | None = None, host: HostOptions | None = None
    ) -> None:
        onnxruntime = require()
        self.version: str = onnxruntime.__version__
        options = session_options(onnxruntime, host or HostOptions())
        self._session: Any = open_session(onnxruntime, graph, options, ["CPUExecutionProvider"], source)
        self.input_spec = spec(self._session.get_inputs()[0])
        self.output_spec = spec(self._session.get_outputs()[0])
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


def by_hand(graphs: Sequence[bytes]) -> dict[str, ByHand]:
    """See `purify_edge.engines.by_hand`."""
    onnxruntime = require()
    try:
        sessions = [onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]) for graph in graphs]
    except _no_kernels(onnxruntime) as error:
        raise MissingError(f"{NO_KERNELS} it ({error})") from error
    inputs = [session.get_inputs()[0].name for session in sessions]

    def run(images: NDArray[np.uint8]) -> NDArray[np.int64]:
        x = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / 255
        for session, name in zip(sessions, inputs, strict=True):
            x = session.run(None, {name: x})[0]
        labels: NDArray[np.int64] = x.argmax(axis=1)
        return labels

    return {"onnxruntime": run}


def session_options(onnxruntime: Any, host: HostOptions) -> Any:
    """Options that every session of ours has, and what the host options say."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    # Left to spin between runs, a session's threads take the cores from other sessions and programs: 21 ms instead of
    # 12 for a batch of 32 by purifier and classifier on two cores.
    if host.spinning == "call":
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if host.spinning == "never":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if host.threads is not None:
        options.intra_op_num_threads = host.threads
    # A graph may name other files for its weights; only what the manifest lists is verified.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NOWHERE)
    return options


def open_session(onnxruntime: Any, graph: bytes, options: Any, providers: list[Any], source: str) -> Any:
    """A session of a graph with one input and one output.

    Raises:
        MissingError: ONNX Runtime has no kernels for it.
        BundleError: it cannot be loaded, or has more.
    """
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers, disabled_optimizers=CRASHING)
    except _no_kernels(onnxruntime) as error:
        raise MissingError(f"{NO_KERNELS} {source} here ({error})") from error
    except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
        raise BundleError(f"ONNX Runtime cannot load {source}: {error}; export the bundle again") from error
    if len(session.get_inputs()) != 1 or len(session.get_outputs()) != 1:
        raise BundleError(f"{source} must have one input and one output; export the bundle again")
    return session


def _no_kernels(onnxruntime: Any) -> type[Exception]:
    """What ONNX Runtime raises where the graph is sound and an operator's kernel for a type is not there."""
    raised: type[Exception] = onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented
    return raised


def spec(node: Any) -> TensorSpec:
    """Name, dtype and shape of a session's input or output."""
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorSpec(node.name, DTYPES.get(node.type, node.type), shape)
