import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from helpers.graphs import export, graph, node, run
from purify_edge.errors import BuildError
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.onnx_from_torch import onnx_from_torch, tidied
from purify_export.networks import Networks
from purify_toolkit.networks.architectures import Purifier

SHAPE = (1, 28, 28)


@pytest.fixture(params=["purifier", "classifier"])
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_graph_gives_pytorchs_numbers_at_any_batch(networks: Networks, pair: GraphPair, role: str) -> None:
    for batch in (1, 2, 7):
        images = torch.rand(batch, *SHAPE, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = getattr(networks, role)(images).numpy()
        found = run(getattr(pair, role), images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def test_a_graph_has_opset_18_and_float32_in_and_out_with_a_dynamic_batch(pair: GraphPair, role: str) -> None:
    model = getattr(pair, role)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    (image,), (answer,) = model.graph.input, model.graph.output
    assert (image.name, answer.name) == ("images", {"purifier": "purified", "classifier": "logits"}[role])
    for value in (image, answer):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
        assert value.type.tensor_type.shape.dim[0].dim_param
    assert tuple(dim.dim_value for dim in image.type.tensor_type.shape.dim[1:]) == SHAPE


def test_no_trace_of_the_exporting_machine_is_left(pair: GraphPair, role: str) -> None:
    content = getattr(pair, role).SerializeToString()
    for trace in (str(Path(__file__).parent.parent.parent), "site-packages", "stack_trace", "torch.nn"):
        assert trace.encode() not in content


def test_the_same_weights_give_the_same_bytes_and_are_left_alone(networks: Networks, pair: GraphPair) -> None:
    network = networks.purifier
    before = copy.deepcopy(network.state_dict())
    again = onnx_from_torch(network, image_shape=SHAPE, output="purified")
    assert again.SerializeToString(deterministic=True) == pair.purifier.SerializeToString(deterministic=True)
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_no_transposed_convolution_is_in_a_purifier(pair: GraphPair) -> None:
    resizes = [node for node in pair.purifier.graph.node if node.op_type == "Resize"]
    assert resizes
    for found in resizes:
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in found.attribute}
        assert attributes["mode"] == b"nearest"
    assert not [node for node in pair.purifier.graph.node if node.op_type == "ConvTranspose"]


def test_detours_copies_and_what_nobody_asks_for_are_left_out() -> None:
    weights = {"a": np.float32([2]), "b": np.float32([2]), "c": np.float32([3])}
    model = graph(
        [
            node("Identity", ["a"], "same"),
            node("Mul", ["images", "same"], "x"),
            node("Mul", ["images", "c"], "unused"),
            node("Mul", ["x", "b"], "answer"),
        ],
        weights,
    )
    model.metadata_props.add(key="path", value="somewhere")
    found = tidied(model)
    assert [entry.op_type for entry in found.graph.node] == ["Mul", "Mul"]
    assert [entry.name for entry in found.graph.node] == ["x", "answer"]
    assert len(found.graph.initializer) == 1
    assert not found.metadata_props
    images = np.ones((1, 1, 2, 2), np.float32)
    assert (run(found, images) == 4).all()


@pytest.mark.parametrize(("channels", "height", "width", "depth"), [(3, 30, 27, 3), (1, 5, 9, 2)])
def test_images_of_any_shape_are_padded_in_the_graph(channels: int, height: int, width: int, depth: int) -> None:
    torch.manual_seed(0)
    purifier = Purifier(channels, width=4, depth=depth, blocks=1).eval()
    model = export(purifier, (channels, height, width))
    images = torch.rand(3, channels, height, width)
    with torch.no_grad():
        expected = purifier(images).numpy()
    assert expected.shape == (3, channels, height, width)
    np.testing.assert_allclose(run(model, images), expected, rtol=0, atol=1e-5)


class Undecided(nn.Module):
    """Does another thing for dark batches: no graph can say that."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def test_a_network_that_cannot_be_exported_is_named_with_the_reason() -> None:
    with pytest.raises(BuildError, match=r"cannot export the Undecided to ONNX, .*\.py:\d+: .+; what is computed may"):
        export(Undecided(), SHAPE)
