"""What one would write by hand: the graphs of a bundle in ONNX Runtime or OpenVINO with the library's defaults."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from purify_edge.engines.onnxruntime import require as require_onnxruntime
from purify_edge.engines.openvino import core
from purify_edge.errors import MissingError

ByHand = Callable[[NDArray[np.uint8]], NDArray[np.int64]]
"""Images `[N, H, W, C]` to labels `[N]`."""


def by_hand(library: str, graphs: Sequence[bytes]) -> Iterator[tuple[str, ByHand]]:
    """Yield calls by name: OpenVINO's as it comes, and in float32 where it would compute in another precision.

    Args:
        library: a key of LIBRARIES.
        graphs: one, or several in a row.

    Raises:
        MissingError: the library is not here, or has no kernels for the graphs.
    """
    yield from LIBRARIES[library](graphs)


def _onnxruntime(graphs: Sequence[bytes]) -> Iterator[tuple[str, ByHand]]:
    onnxruntime = require_onnxruntime()
    try:
        sessions = [onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]) for graph in graphs]
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
        raise MissingError(f"ONNX Runtime has no kernels for it ({error})") from error
    inputs = [session.get_inputs()[0].name for session in sessions]

    def run(images: NDArray[np.uint8]) -> NDArray[np.int64]:
        x = _as_floats(images)
        for session, name in zip(sessions, inputs, strict=True):
            x = session.run(None, {name: x})[0]
        return _labels(x)

    yield "onnxruntime", run


def _openvino(graphs: Sequence[bytes]) -> Iterator[tuple[str, ByHand]]:
    plain = [core().compile_model(core().read_model(graph), "CPU") for graph in graphs]
    taken = plain[0].get_property("INFERENCE_PRECISION_HINT").get_type_name()

    def call(models: Sequence[Callable[..., Sequence[NDArray[np.float32]]]]) -> ByHand:
        def run(images: NDArray[np.uint8]) -> NDArray[np.int64]:
            x = _as_floats(images)
            for model in models:
                x = model(x)[0]
            return _labels(x)

        return run

    yield ("openvino" if taken == "f32" else f"openvino in {taken}"), call(plain)
    if taken != "f32":
        hint = {"INFERENCE_PRECISION_HINT": "f32"}
        yield "openvino", call([core().compile_model(core().read_model(graph), "CPU", hint) for graph in graphs])


LIBRARIES: dict[str, Callable[[Sequence[bytes]], Iterator[tuple[str, ByHand]]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def _as_floats(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)


def _labels(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    labels: NDArray[np.int64] = logits.argmax(axis=1)
    return labels
