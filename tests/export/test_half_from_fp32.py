import copy

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.transformers.float16 import convert_float_to_float16

from helpers.graphs import built_by_rtx, graph, needs_rtx, node, run
from purify_edge.errors import BuildError
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.graphs import composed, typed
from purify_export.convert.half_from_fp32 import FORMATS, NOT_BUILT, half_from_fp32, rounding_from_half
from purify_export.convert.onnx_from_torch import check_graph
from purify_export.networks import Networks

IMAGES = np.random.default_rng(0).random((4, 1, 28, 28), dtype=np.float32)
ONE = np.ones((1, 1, 1, 1), np.float32)


@pytest.mark.parametrize("to", ["fp16", "bf16"])
def test_everything_computes_in_the_type_between_two_casts(pair: GraphPair, to: str) -> None:
    model = half_from_fp32(pair.defended(), to)
    check_graph(model)
    types = typed(model)
    casts = [found for found in model.graph.node if found.op_type == "Cast"]
    assert [found.output[0] for found in casts] == [f"images_{to}", "logits"]
    ends = {"images", "logits"}
    assert {types[name] for found in model.graph.node for name in found.output if name not in ends} == {
        FORMATS[to].onnx
    }
    assert [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)] == [1, 1]
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1]
    assert {tensor.data_type for tensor in weights} == {FORMATS[to].onnx}
    scales = [tensor for tensor in model.graph.initializer if "val_" in tensor.name and tensor.data_type == 1]
    assert scales  # a Resize takes its scales in float32 only


@pytest.mark.parametrize(("to", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_the_numbers_are_those_of_pytorch_in_the_type(
    networks: Networks, pair: GraphPair, to: str, kind: torch.dtype
) -> None:
    simulated = run(rounding_from_half(half_from_fp32(pair.purifier, to)), IMAGES)
    with torch.no_grad():
        expected = copy.deepcopy(networks.purifier).to(kind)(torch.from_numpy(IMAGES).to(kind)).float().numpy()
    step = {"fp16": 2**-11, "bf16": 2**-8}[to]  # between two numbers of the type below 1
    np.testing.assert_allclose(simulated, expected, rtol=0, atol=4 * step)
    reference = ReferenceEvaluator(half_from_fp32(pair.purifier, to)).run(None, {"images": IMAGES[:1]})[0]
    np.testing.assert_allclose(simulated[:1], reference, rtol=0, atol=4 * step)


@pytest.mark.parametrize(("to", "kind"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_a_simulation_rounds_every_tensor(to: str, kind: type) -> None:
    model = graph(
        [node("Mul", ["images", "third"], "a"), node("Sub", ["a", "third"], "answer")],
        {"third": np.float32(1 / 3).reshape(1)},
    )
    images = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 1, 2, 2)
    third = np.float32(1 / 3).astype(kind)
    expected = (images.astype(kind).astype(np.float32) * np.float32(third)).astype(kind).astype(np.float32)
    expected = (expected - np.float32(third)).astype(kind).astype(np.float32)
    assert np.array_equal(run(rounding_from_half(half_from_fp32(model, to)), images), expected)


def chain() -> onnx.ModelProto:
    """Between its second and its third node passes more than float16 can hold."""
    return graph(
        [
            node("Conv", ["images", "one"], "first"),
            node("Mul", ["first", "large"], "second"),
            node("Mul", ["second", "small"], "third"),
            node("Sigmoid", ["third"], "answer"),
        ],
        {"one": ONE, "large": np.float32([1e5]), "small": np.float32([1e-5])},
    )


def test_what_passes_between_two_layers_in_float32_is_not_rounded() -> None:
    kept = half_from_fp32(chain(), "fp16", keep=["second", "third"])
    check_graph(kept)
    types = typed(kept)
    assert (types["first"], types["second"], types["third"]) == (TensorProto.FLOAT16, TensorProto.FLOAT, 1)
    assert [found.output[0] for found in kept.graph.node if found.op_type == "Cast"] == [
        "images_fp16",
        "first_fp32",
        "third_fp16",
        "answer",
    ]
    images = np.full((1, 1, 2, 2), 1, np.float32)
    right = 1 / (1 + np.exp(-1))
    for model in (kept, rounding_from_half(kept)):
        np.testing.assert_allclose(run(model, images), right, rtol=1e-3)
    assert run(rounding_from_half(half_from_fp32(chain(), "fp16")), images).max() == 1  # the overflow, hidden


def test_onnx_runtimes_own_converter_still_rounds_between_them() -> None:
    """Why there is one of ours: when this fails, it may go."""
    theirs = convert_float_to_float16(chain(), keep_io_types=True, node_block_list=["second", "third"])
    assert run(theirs, np.ones((1, 1, 2, 2), np.float32)).max() == 1


def test_a_weight_that_both_types_take_is_there_in_both() -> None:
    model = graph([node("Mul", ["images", "w"], "a"), node("Mul", ["a", "w"], "answer")], {"w": np.float32([1 / 3])})
    half = half_from_fp32(model, "fp16", keep=["answer"])
    assert {tensor.name: tensor.data_type for tensor in half.graph.initializer} == {"w": 1, "w_fp16": 10}
    (whole,) = (tensor for tensor in half.graph.initializer if tensor.name == "w")
    assert numpy_helper.to_array(whole) == np.float32(1 / 3)


@pytest.mark.parametrize("to", ["fp16", "bf16"])
def test_an_operator_that_does_not_take_the_type_stays_in_float32(to: str) -> None:
    model = graph([node("Relu", ["images"], "a"), node("Celu", ["a"], "b"), node("Mul", ["b", "b"], "answer")], {})
    half = half_from_fp32(model, to)
    check_graph(half)
    types = typed(half)
    assert (types["a"], types["b"], types[f"answer_{to}"]) == (FORMATS[to].onnx, TensorProto.FLOAT, FORMATS[to].onnx)
    images = np.full((1, 1, 2, 2), 0.5, np.float32)
    assert np.array_equal(run(rounding_from_half(half), images), images / 2)


def test_control_flow_is_refused_by_name() -> None:
    branch = helper.make_graph(
        [node("Relu", ["images"], "x")], "b", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    )
    other = helper.make_graph(
        [node("Neg", ["images"], "z")], "c", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    )
    model = graph([node("If", ["yes"], "answer", then_branch=branch, else_branch=other)], {"yes": np.array([True])})
    with pytest.raises(BuildError, match=r"answer \(If\) is control flow"):
        half_from_fp32(model, "fp16")


def test_a_composed_graph_is_the_chain_of_the_two(networks: Networks, pair: GraphPair) -> None:
    model = composed(pair.purifier, pair.classifier)
    check_graph(model)
    assert [(value.name, value.type.tensor_type.shape.dim[0].dim_param) for value in model.graph.input] == [
        ("images", "batch")
    ]
    assert {found.name.partition("/")[0] for found in model.graph.node} == {"purifier", "classifier"}
    with torch.no_grad():
        expected = networks.defended(torch.from_numpy(IMAGES)).numpy()
    np.testing.assert_allclose(run(model, IMAGES), expected, rtol=0, atol=2e-4)


@needs_rtx
@pytest.mark.parametrize("operator", [name for name in NOT_BUILT["bf16"] if name != "ConvTranspose"])
def test_what_the_parser_refuses_in_bfloat16_stays_in_float32(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = graph([node(operator, ["images"], "a"), node("Add", ["a", "a"], "answer")], {})
    assert built_by_rtx(half_from_fp32(model, "bf16"), "bf16").content
    monkeypatch.setitem(NOT_BUILT, "bf16", ())
    with pytest.raises(BuildError, match=rf"\({operator}\).*(BF16|FLOAT|HALF|[Ff]loat)"):
        built_by_rtx(half_from_fp32(model, "bf16"), "bf16")
