"""The served graph: all that a server or a program in another language needs, in one graph without code of ours."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from purify_edge.bundle.manifest import InputContract, Pixels, SpareEntry, SuspicionEntry
from purify_edge.pipeline.suspicion import NEW
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.graphs import composed
from purify_toolkit.networks.onnx_graphs.pixel_graph import raised

IMAGES, MIDDLE, LOGITS = "images", "purifier/purified", "logits"
OURS = "served/"
PURIFIED = f"{OURS}purified"
OPSET = 18  # from which on reductions take their axes, and Split its number of outputs, as they are given here


def served(
    pair: GraphPair,
    contract: InputContract,
    suspicion: SuspicionEntry | None,
    pixels: Pixels,
    spare: SpareEntry | None = None,
) -> onnx.ModelProto:
    """Return one graph, `images` to float32 `probabilities` `[N, K]`, `suspicion` `[N]` and `purified` `[N, C, H, W]`.

    The classifier sees the images as they came and the purified ones as one batch, so that its weights are there once.
    The suspicion is that of `purify_edge.pipeline.suspicion`; without a calibrated threshold it is given all the same.
    With `spare` the probabilities are those of the rule of `purify_edge.pipeline.sparing`, and float32 `spared` `[N]`
    is 1 for images that keep the classifier's own answer, else 0: nvinfer reads no outputs of booleans.

    Args:
        pair: float32 in and out, as the bundle has it in some precision.
        contract: the bundle's.
        suspicion: the bundle's; None where it has none.
        pixels: what the graph takes.
        spare: the bundle's threshold; None leaves the rule out.
    """
    purifier = raised(pair.purifier, OPSET)
    model = composed(purifier, raised(pair.classifier, OPSET))
    graph, first = model.graph, len(purifier.graph.node)
    start, source = _start(contract, pixels)
    new = {IMAGES: source, MIDDLE: PURIFIED}  # what the classifier takes keeps its name: its subgraphs may know it
    ours = [_renamed(node, new) for node in graph.node[:first]]
    both = _node("Concat", [source, PURIFIED], [MIDDLE], axis=0)
    score = NEW if suspicion is None else suspicion.score
    theirs = list(graph.node[first:])
    graph.ClearField("node")
    graph.node.extend([*start, *ours, both, *theirs, *_end(score, spare)])
    used = {name for node in graph.node for name in node.input}
    graph.initializer.extend(constant for constant in _constants(spare) if constant.name in used)
    batch = "batch"
    shape = [batch, contract.channels, contract.height, contract.width]
    bytes_of = [batch, contract.height, contract.width, contract.channels]
    taken = (TensorProto.UINT8, bytes_of) if pixels == "uint8" else (TensorProto.FLOAT, shape)
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    for field, values in (
        (graph.input, [(IMAGES, *taken)]),
        (
            graph.output,
            [
                ("probabilities", TensorProto.FLOAT, [batch, classes]),
                ("suspicion", TensorProto.FLOAT, [batch]),
                ("purified", TensorProto.FLOAT, shape),
                *([("spared", TensorProto.FLOAT, [batch])] if spare else []),
            ],
        ),
    ):
        del field[:]
        field.extend(helper.make_tensor_value_info(*value) for value in values)
    graph.name = "served"
    return model


def _renamed(node: onnx.NodeProto, new: dict[str, str]) -> onnx.NodeProto:
    """Return a node whose tensors have other names."""
    for names in (node.input, node.output):
        names[:] = [new.get(name, name) for name in names]
    return node


def _node(kind: str, inputs: Iterable[str], outputs: Iterable[str], **attributes: Any) -> onnx.NodeProto:
    outputs = list(outputs)
    return helper.make_node(
        kind, list(inputs), outputs, name=f"{OURS}{kind}_{outputs[0].rpartition('/')[2]}", **attributes
    )


def _start(contract: InputContract, pixels: Pixels) -> tuple[list[onnx.NodeProto], str]:
    """Return what makes float32 pixels of the input, and their name."""
    if pixels == "float32":
        return [], IMAGES
    rows, scaled, ready = f"{OURS}rows", f"{OURS}scaled", f"{OURS}pixels"
    return [
        _node("Cast", [IMAGES], [rows], to=TensorProto.FLOAT),
        _node("Div", [rows, f"{OURS}255"], [scaled]),
        _node("Transpose", [scaled], [ready], perm=[0, 3, 1, 2]),
    ], ready


def _end(score: str, spare: SpareEntry | None) -> list[onnx.NodeProto]:
    """Return what makes all outputs of the logits of both and the purified images."""
    change, centred, spread = f"{OURS}change", f"{OURS}centred", f"{OURS}spread"
    raw, last, classes = f"{OURS}raw", f"{OURS}purified_logits", f"{OURS}classes"
    answering, is_spared = f"{OURS}answering" if spare else last, f"{OURS}is_spared"
    nodes = [
        _node("Split", [LOGITS], [raw, last], axis=0, num_outputs=2),
        _node("Sub", [raw, last], [change]),
        _node("ReduceMean", [change, classes], [f"{OURS}mean"], keepdims=1),
        _node("Sub", [change, f"{OURS}mean"], [centred]),
        _node("Mul", [centred, centred], [f"{OURS}squares"]),
        _node("ReduceMean", [f"{OURS}squares", classes], [f"{OURS}variance"], keepdims=0),
        _node("Sqrt", [f"{OURS}variance"], [spread]),
        _node("Identity", [PURIFIED], ["purified"]),
    ]
    if spare:
        nodes += [
            _node("LessOrEqual", [spread, f"{OURS}spare_threshold"], [is_spared]),
            _node("Cast", [is_spared], ["spared"], to=TensorProto.FLOAT),
            _node("Unsqueeze", [is_spared, classes], [f"{OURS}spared_rows"]),
            _node("Where", [f"{OURS}spared_rows", raw, last], [answering]),
        ]
    nodes.append(_node("Softmax", [answering], ["probabilities"], axis=1))
    if score != NEW:
        return [*nodes, _node("Identity", [spread], ["suspicion"])]
    return [
        *nodes,
        _node("TopK", [raw, f"{OURS}two"], [f"{OURS}largest", f"{OURS}which"], axis=1),
        _node("Split", [f"{OURS}largest"], [f"{OURS}first", f"{OURS}second"], axis=1, num_outputs=2),
        _node("Sub", [f"{OURS}first", f"{OURS}second"], [f"{OURS}margins"]),
        _node("Squeeze", [f"{OURS}margins", classes], [f"{OURS}margin"]),
        _node("Mul", [spread, f"{OURS}margin"], ["suspicion"]),
    ]


def _constants(spare: SpareEntry | None) -> list[onnx.TensorProto]:
    return [
        numpy_helper.from_array(np.array(255, np.float32), f"{OURS}255"),
        numpy_helper.from_array(np.array([1], np.int64), f"{OURS}classes"),
        numpy_helper.from_array(np.array([2], np.int64), f"{OURS}two"),
        numpy_helper.from_array(np.array(spare.threshold if spare else 0, np.float32), f"{OURS}spare_threshold"),
    ]
