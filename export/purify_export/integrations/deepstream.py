"""DeepStream: a graph, a configuration and labels for nvinfer, which takes every output of a graph for an attribute."""

from collections.abc import Iterator, Sequence
from copy import deepcopy

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from purify_edge.bundle.manifest import InputContract, Precision

PROBABILITIES, VERDICT = "probabilities", "verdict"
VERDICTS = ("unsuspicious", "suspicious")
OURS = "deepstream/"
COLOURS = {3: 0, 1: 2}
"""Channels -> nvinfer's number of their format: RGB, grey."""
FILTERS = {"nearest": 0, "bilinear": 1}
"""Interpolation -> nvinfer's number of it."""


def deepstream_graph(served: onnx.ModelProto, threshold: float | None) -> onnx.ModelProto:
    """Return a served graph as nvinfer's own classifier parser reads it.

    It takes each output for the shares of an attribute's classes. So the purified images, the score and what is spared
    are no outputs; `verdict` `[N, 2]`, 1 at the one of `VERDICTS` that holds, is, where there is a threshold.
    """
    model = deepcopy(served)
    graph = model.graph
    kept = [output for output in graph.output if output.name == PROBABILITIES]
    nodes = [node for node in graph.node if not {"purified", "spared"} & set(node.output)]
    if threshold is not None:
        kept.append(helper.make_tensor_value_info(VERDICT, TensorProto.FLOAT, ["batch", len(VERDICTS)]))
        nodes += _verdict()
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.array(threshold, np.float32), f"{OURS}threshold"),
                numpy_helper.from_array(np.array([1], np.int64), f"{OURS}classes"),
            ]
        )
    for field, values in ((graph.node, nodes), (graph.output, kept)):
        del field[:]
        field.extend(values)
    graph.name = "deepstream"
    return model


def _verdict() -> Iterator[onnx.NodeProto]:
    """Yield what makes the verdict of the score; one that is no number is suspicious, as elsewhere."""
    column, low, high, no, yes = (f"{OURS}{name}" for name in ("column", "low", "high", "no", "yes"))
    for kind, inputs, output, attributes in (
        ("Unsqueeze", ["suspicion", f"{OURS}classes"], column, {}),
        ("LessOrEqual", [column, f"{OURS}threshold"], low, {}),
        ("Not", [low], high, {}),
        ("Cast", [low], no, {"to": TensorProto.FLOAT}),
        ("Cast", [high], yes, {"to": TensorProto.FLOAT}),
        ("Concat", [no, yes], VERDICT, {"axis": 1}),
    ):
        yield helper.make_node(kind, inputs, [output], name=f"{OURS}{kind}_{output.rpartition('/')[2]}", **attributes)


def configuration(
    contract: InputContract, precisions: Sequence[Precision], outputs: Sequence[str], batch: int
) -> dict[str, str]:
    """Return what is filled into config_infer_purify.txt."""
    return {
        "batch": str(batch),
        "way": contract.way,
        "notes": "".join(f"# {note}\n" for note in _notes(contract)),
        "engines": "\n".join(f"# model-engine-file=deepstream.{name}.engine" for name in precisions),
        "colour": str(COLOURS[contract.channels]),
        "dims": f"{contract.channels};{contract.height};{contract.width}",
        "keep": str(int(contract.preprocessing.resize == "letterbox")),
        "filter": str(FILTERS.get(contract.preprocessing.interpolation, FILTERS["bilinear"])),
        "outputs": ";".join(outputs),
    }


def _notes(contract: InputContract) -> Iterator[str]:
    """Yield what nvinfer cannot do as the classifier was trained."""
    how, size = contract.preprocessing, (contract.height, contract.width)
    if how.resize == "shortest" or how.scaled not in (None, size):
        yield "nvinfer does not cut: it stretches the frame. Cut frames before it, or expect other answers."
    if how.interpolation not in FILTERS:
        yield f"nvinfer has no {how.interpolation} filter of this kind; bilinear stands for it."
    if how.resize == "letterbox" and any(how.fill):
        yield f"nvinfer fills with black, not with {' '.join(map(str, how.fill))}."


def labels(class_names: Sequence[str], *, verdict: bool) -> str:
    r"""Return labels.txt: a line an attribute, its classes with semicolons between them.

    There is no way to write a semicolon or the end of a line, so a comma and a space stand for them.

    >>> labels(["cat; tame", "dog"], verdict=True)
    'cat, tame;dog\nunsuspicious;suspicious\n'
    """
    names = [" ".join(name.replace(";", ",").splitlines()) for name in class_names]
    return "".join(f"{';'.join(line)}\n" for line in ([names, VERDICTS] if verdict else [names]))
