"""What one would write by hand: the graphs of a bundle in ONNX Runtime or OpenVINO with the library's defaults."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.engines.onnxruntime import require as require_onnxruntime
from purify_edge.engines.openvino import core
from purify_edge.errors import MissingError

ByHand = Callable[[NDArray[np.uint8]], NDArray[np.int64]]
"""Images `[N, H, W, C]` to labels `[N]`."""
Model = Callable[[NDArray[np.float32]], Sequence[NDArray[np.float32]]]


def _onnxruntime(graphs: Sequence[bytes]) -> Iterator[tuple[str, ByHand]]:
    onnxruntime = require_onnxruntime()
    try:
        sessions = [onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]) for graph in graphs]
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
        raise MissingError(f"ONNX Runtime has no kernels for it ({error})") from error

    def model(session: Any) -> Model:
        name = session.get_inputs()[0].name
        return lambda x: session.run(None, {name: x})

    yield "onnxruntime", _in_a_row([model(session) for session in sessions])


def _openvino(graphs: Sequence[bytes]) -> Iterator[tuple[str, ByHand]]:
    def models(**hints: str) -> list[Any]:
        return [core().compile_model(core().read_model(graph), "CPU", hints) for graph in graphs]

    plain = models()
    taken = plain[0].get_property("INFERENCE_PRECISION_HINT").get_type_name()
    yield ("openvino" if taken == "f32" else f"openvino in {taken}"), _in_a_row(plain)
    if taken != "f32":
        yield "openvino", _in_a_row(models(INFERENCE_PRECISION_HINT="f32"))


LIBRARIES: dict[str, Callable[[Sequence[bytes]], Iterator[tuple[str, ByHand]]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
"""Yield calls by name for one graph, or several in a row: OpenVINO's as it comes, and in float32 where it would compute
otherwise. They raise MissingError where the library is not here, or has no kernels for the graphs."""


def _in_a_row(models: Sequence[Model]) -> ByHand:
    def run(images: NDArray[np.uint8]) -> NDArray[np.int64]:
        x = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
        for model in models:
            x = model(x)[0]
        labels: NDArray[np.int64] = x.argmax(axis=1)
        return labels

    return run
