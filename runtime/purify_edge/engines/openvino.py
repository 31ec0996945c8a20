"""OpenVINO on the CPU."""

import functools
import re
import threading
from typing import Any

from purify_edge.engines.base import Array, CpuSettings, Engine, Pair, TensorSpec
from purify_edge.engines.tensorrt.store import EngineFiles
from purify_edge.errors import BundleError, MissingError, PurifyError, reason
from purify_edge.extras import require_library

DEVICE = "CPU"
HINTS = {"fp32": "f32", "bf16": "bf16"}
"""OpenVINO's hint for what the graph holds in float32: without one it takes bfloat16 where the CPU has it. What the
graph holds in bfloat16 is computed in bfloat16 with either hint."""
LOSSY = {"BF16": "bf16", "INT8": "int8"}
"""OpenVINO's capability -> the precision that it makes faster; graphs in float16 are computed in float32 here."""
_making = threading.Lock()
# How an ONNX graph names another file for its weights: the key `location` (protobuf's field 1, length 8).
EXTERNAL_WEIGHTS = re.compile(rb"\x0a(?:\x08|\x88\x80*\x00)location")


def require() -> Any:
    """Return OpenVINO, imported.

    Raises:
        MissingError: it is not installed.
    """
    return require_library("openvino", "openvino")


def core() -> Any:
    """Return the process's only `openvino.Core`, kept until the process ends.

    Each loads the CPU plugin anew at its first use; the plugin gives that thread a stack for signals, and takes it away
    when it is freed. Freed in another order than made, several leave the thread with a stack that is not there any
    more: Ctrl-C is then a crash.

    Raises:
        MissingError: OpenVINO is not installed, or does not work here.
    """
    openvino = require()
    try:
        with _making:
            return _core(openvino)
    except Exception as error:  # its plugins may fail in ways of their own
        raise MissingError(f"OpenVINO does not work here ({reason(error)})") from error


@functools.cache
def _core(openvino: Any) -> Any:
    return openvino.Core()


class OpenVinoEngine(Engine):
    """Run a model compiled for the CPU, with the hint for low latency; it needs no engine files and writes none.

    Raises:
        MissingError: openvino is not installed, or the graph is in bfloat16 and the CPU has none.
        BundleError: the graph cannot be loaded.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self, graph: bytes, *, source: str, files: EngineFiles | None = None, settings: CpuSettings | None = None
    ) -> None:
        settings = settings or CpuSettings()
        openvino = require()
        self.version: str = openvino.__version__.partition("-")[0]
        self._tensor: Any = openvino.Tensor
        if EXTERNAL_WEIGHTS.search(graph):  # OpenVINO would read them; only what the manifest lists is verified
            raise BundleError(f"OpenVINO cannot load {source}: it has weights in other files; export the bundle again")
        try:
            model = core().read_model(graph)
            if len(model.inputs) != 1 or len(model.outputs) != 1:
                raise BundleError(f"{source} must have one input and one output; export the bundle again")
            _refuse_bfloat16(model, source, settings)
            self._model: Any = core().compile_model(model, DEVICE, properties(settings))
        except PurifyError:
            raise
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise BundleError(f"OpenVINO cannot load {source}: {reason}; export the bundle again") from error
        self.input_spec, self.output_spec = _spec(self._model.inputs[0]), _spec(self._model.outputs[0])
        self._idle: list[Any] = []  # requests that no thread uses; append and pop are atomic

    def borrow(self) -> Any:
        """Lend an infer request to the calling thread, until it is given back."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._model.create_infer_request()

    def give_back(self, request: Any) -> None:
        """Take the request back, for others."""
        self._idle.append(request)

    def as_tensor(self, x: Array) -> Any:
        """Return a tensor that shares the array's memory."""
        return self._tensor(x, shared_memory=True)

    def run(self, x: Array) -> Array:
        """See `Engine.run`."""
        request = self.borrow()
        try:
            output: Array = infer(request, self.as_tensor(x)).data.copy()
            return output
        finally:
            self.give_back(request)

    def pair(self, classifier: Engine) -> Pair:
        """See `Engine.pair`: the classifier reads the purifier's output where it lies."""
        return SharedPair(self, classifier) if isinstance(classifier, OpenVinoEngine) else Pair(self, classifier)

    def close(self) -> None:
        """See `Closing.close`."""
        self._idle.clear()
        self._model = None


class SharedPair(Pair):
    """Run two models in a row, by way of one tensor."""

    purifier: OpenVinoEngine
    classifier: OpenVinoEngine

    def both(self, x: Array) -> tuple[Array, Array]:
        """See `Pair.both`."""
        one, two = self.purifier.borrow(), self.classifier.borrow()
        try:
            purified = infer(one, self.purifier.as_tensor(x))
            logits = infer(two, purified).data.copy()
            return purified.data.copy(), logits
        finally:
            self.purifier.give_back(one)
            self.classifier.give_back(two)

    def logits(self, x: Array) -> Array:
        """See `Pair.logits`."""
        one, two = self.purifier.borrow(), self.classifier.borrow()
        try:
            logits: Array = infer(two, infer(one, self.purifier.as_tensor(x))).data.copy()
            return logits
        finally:
            self.purifier.give_back(one)
            self.classifier.give_back(two)


def lossy_precisions() -> frozenset[str]:
    """Return the lossy precisions that may be faster than float32 here: those that the CPU has instructions for."""
    return frozenset(LOSSY[name] for name in core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES") if name in LOSSY)


def _refuse_bfloat16(model: Any, source: str, settings: CpuSettings) -> None:
    """Refuse bfloat16, in the graph or requested, where the CPU has none: OpenVINO would compute in float32."""
    if "bf16" in lossy_precisions():
        return
    types = {output.get_element_type().get_type_name() for op in model.get_ops() for output in op.outputs()}
    if "bf16" in {settings.compute, *types}:
        cpu = core().get_property(DEVICE, "FULL_DEVICE_NAME")
        raise MissingError(
            f"{source} is to run in bfloat16, which this CPU ({cpu}) does not have; take --precision fp32"
        )


def infer(request: Any, tensor: Any) -> Any:
    """Run a request; return its output tensor, valid until the request runs again."""
    request.set_input_tensor(tensor)
    request.infer()
    return request.get_output_tensor()


def properties(settings: CpuSettings) -> dict[str, Any]:
    """Return OpenVINO's properties for the settings."""
    chosen: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": HINTS[settings.compute],
        "ENABLE_CPU_PINNING": settings.cores == "tied",
    }
    if settings.cores == "one":
        chosen["INFERENCE_NUM_THREADS"] = 1
    return chosen


def _spec(port: Any) -> TensorSpec:
    shape = tuple(size.get_length() if size.is_static else None for size in port.partial_shape)
    return TensorSpec(port.any_name, port.element_type.to_dtype().name, shape)
