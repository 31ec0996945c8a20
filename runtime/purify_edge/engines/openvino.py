"""OpenVINO on the CPU."""

import functools
import re
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.engines import ByHand, Chain, Engine, HostChain, HostOptions, TensorSpec
from purify_edge.engines.tensorrt.store import EngineFiles
from purify_edge.errors import BundleError, MissingError, PurifyError

Array = NDArray[np.float32]
DEVICE = "CPU"
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
"""Precision is the graph's alone: where the CPU has it, OpenVINO would compute in bfloat16. What the graph has in
bfloat16 is computed in it all the same, and with the hint `bf16` what it has in float32 would be too."""
BFLOAT16 = "BF16"
_making = threading.Lock()
# How an ONNX graph names another file for its weights: the key `location` (protobuf's field 1, length 8).
EXTERNAL_WEIGHTS = re.compile(rb"\x0a(?:\x08|\x88\x80*\x00)location")


def require() -> Any:
    """OpenVINO, imported.

    Raises:
        MissingError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise MissingError(f"needs 'openvino': pip install 'purify-edge[openvino]' ({error})") from error
    return openvino


def core() -> Any:
    """The process's only `openvino.Core`, kept until the process ends.

    Each loads the CPU plugin anew at its first use; the plugin gives that thread a stack for signals, and takes it away
    when it is freed. Freed in another order than made, several leave the thread with a stack that is not there any
    more: Ctrl-C is then a crash.

    Raises:
        MissingError: OpenVINO is not installed.
    """
    openvino = require()
    with _making:
        return _core(openvino)


@functools.cache
def _core(openvino: Any) -> Any:
    return openvino.Core()


class OpenVinoEngine:
    """A model compiled for the CPU, with the hint for low latency. It has no use for engine files, and writes none.

    Raises:
        MissingError: openvino is not installed, or the graph is in bfloat16 and the CPU has none.
        BundleError: the graph cannot be loaded.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self, graph: bytes, *, source: str, files: EngineFiles | None = None, host: HostOptions | None = None
    ) -> None:
        openvino = require()
        self.version: str = openvino.__version__.partition("-")[0]
        self._tensor: Any = openvino.Tensor
        if EXTERNAL_WEIGHTS.search(graph):  # OpenVINO would read them; only what the manifest lists is verified
            raise BundleError(f"OpenVINO cannot load {source}: it has weights in other files; export the bundle again")
        try:
            model = core().read_model(graph)
            if len(model.inputs) != 1 or len(model.outputs) != 1:
                raise BundleError(f"{source} must have one input and one output; export the bundle again")
            _refuse_bfloat16(model, source)
            self._model: Any = core().compile_model(model, DEVICE, properties(host or HostOptions()))
        except PurifyError:
            raise
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise BundleError(f"OpenVINO cannot load {source}: {reason}; export the bundle again") from error
        self.input_spec, self.output_spec = _spec(self._model.inputs[0]), _spec(self._model.outputs[0])
        self._idle: list[Any] = []  # requests that no thread uses; append and pop are atomic

    def borrow(self) -> Any:
        """An infer request for the calling thread alone, until it is given back."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._model.create_infer_request()

    def give_back(self, request: Any) -> None:
        """Let others have the request."""
        self._idle.append(request)

    def as_tensor(self, x: Array) -> Any:
        """A tensor that shares the array's memory."""
        return self._tensor(x, shared_memory=True)

    def run(self, x: Array) -> Array:
        """See `Engine.run`."""
        request = self.borrow()
        try:
            output: Array = infer(request, self.as_tensor(x)).data.copy()
            return output
        finally:
            self.give_back(request)

    def then(self, other: Engine) -> Chain:
        """See `Engine.then`: the second reads the first's output where it lies."""
        return SharedChain(self, other) if isinstance(other, OpenVinoEngine) else HostChain(self, other)

    def close(self) -> None:
        """See `Engine.close`."""
        self._idle.clear()
        self._model = None

    def __enter__(self) -> "OpenVinoEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SharedChain:
    """Two models in a row, by way of one tensor."""

    def __init__(self, first: OpenVinoEngine, second: OpenVinoEngine) -> None:
        self._first, self._second = first, second

    def run(self, x: Array) -> tuple[Array, Array]:
        """See `Chain.run`."""
        one, two = self._first.borrow(), self._second.borrow()
        try:
            between = infer(one, self._first.as_tensor(x))
            last = infer(two, between).data.copy()
            return between.data.copy(), last
        finally:
            self._first.give_back(one)
            self._second.give_back(two)

    def last(self, x: Array) -> Array:
        """See `Chain.last`."""
        one, two = self._first.borrow(), self._second.borrow()
        try:
            last: Array = infer(two, infer(one, self._first.as_tensor(x))).data.copy()
            return last
        finally:
            self._first.give_back(one)
            self._second.give_back(two)

    def close(self) -> None:
        """Nothing to free."""


def by_hand(graphs: Sequence[bytes]) -> dict[str, ByHand]:
    """See `purify_edge.engines.by_hand`: in float32, and in what OpenVINO takes where it is not told."""
    plain = [core().compile_model(core().read_model(graph), DEVICE) for graph in graphs]
    taken = plain[0].get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if taken == "f32":
        return {"openvino": _labels_by(plain)}
    told = [core().compile_model(core().read_model(graph), DEVICE, FLOAT32) for graph in graphs]
    return {"openvino": _labels_by(told), f"openvino in {taken}": _labels_by(plain)}


def _refuse_bfloat16(model: Any, source: str) -> None:
    """Refuse a graph that has bfloat16 in it where the CPU has not: OpenVINO would compute in float32."""
    if BFLOAT16 in core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
        return
    if any(output.get_element_type().get_type_name() == "bf16" for op in model.get_ops() for output in op.outputs()):
        cpu = core().get_property(DEVICE, "FULL_DEVICE_NAME")
        raise MissingError(f"{source} is in bfloat16, which this CPU ({cpu}) has not; take --precision fp32")


def _labels_by(models: Sequence[Any]) -> ByHand:
    def run(images: NDArray[np.uint8]) -> NDArray[np.int64]:
        x = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / 255
        for model in models:
            x = model(x)[0]
        labels: NDArray[np.int64] = x.argmax(axis=1)
        return labels

    return run


def infer(request: Any, tensor: Any) -> Any:
    """The output tensor, valid until the request runs again."""
    request.set_input_tensor(tensor)
    request.infer()
    return request.get_output_tensor()


def properties(host: HostOptions) -> dict[str, Any]:
    """OpenVINO's properties for the host options."""
    chosen: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        **FLOAT32,
        "ENABLE_CPU_PINNING": host.pinned,
    }
    if host.threads is not None:
        chosen["INFERENCE_NUM_THREADS"] = host.threads * host.side_by_side
    if host.side_by_side > 1:
        chosen["NUM_STREAMS"] = host.side_by_side
    return chosen


def _spec(port: Any) -> TensorSpec:
    shape = tuple(size.get_length() if size.is_static else None for size in port.partial_shape)
    return TensorSpec(port.any_name, port.element_type.to_dtype().name, shape)
