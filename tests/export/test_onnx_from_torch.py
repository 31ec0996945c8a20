import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import nn

from purify_edge.errors import BuildError
from purify_export.convert.onnx_from_torch import onnx_from_torch
from purify_toolkit.networks.architectures import Purifier

SHAPE = (1, 28, 28)


def export(module: nn.Module, shape: tuple[int, int, int] = SHAPE) -> onnx.ModelProto:
    return onnx_from_torch(module, image_shape=shape, output="answer")


def run(model: onnx.ModelProto, images: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answer: np.ndarray = session.run(None, {"images": images.numpy()})[0]
    return answer


def test_a_graph_gives_pytorchs_numbers_at_any_batch(network: nn.Module) -> None:
    model = export(network)
    for batch in (1, 2, 7):
        images = torch.rand(batch, *SHAPE, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = network(images).numpy()
        found = run(model, images)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def test_a_graph_has_opset_18_and_float32_in_and_out_with_a_dynamic_batch(network: nn.Module) -> None:
    model = export(network)
    assert [(entry.domain, entry.version) for entry in model.opset_import if not entry.domain] == [("", 18)]
    (image,), (answer,) = model.graph.input, model.graph.output
    assert (image.name, answer.name) == ("images", "answer")
    for value in (image, answer):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
        assert value.type.tensor_type.shape.dim[0].dim_param
    assert tuple(dim.dim_value for dim in image.type.tensor_type.shape.dim[1:]) == SHAPE


def test_no_trace_of_the_exporting_machine_is_left(network: nn.Module) -> None:
    content = export(network).SerializeToString()
    for trace in (str(Path(__file__).parent.parent.parent), "site-packages", "stack_trace", "torch.nn"):
        assert trace.encode() not in content


def test_the_same_weights_give_the_same_bytes_and_are_left_alone(network: nn.Module) -> None:
    before = copy.deepcopy(network.state_dict())
    files = [export(network).SerializeToString(deterministic=True) for _ in range(2)]
    assert files[0] == files[1]
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_no_transposed_convolution_is_in_a_purifier(network: nn.Module) -> None:
    resizes = [node for node in export(network).graph.node if node.op_type == "Resize"]
    for node in resizes:
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert attributes["mode"] == b"nearest"
    assert not [node for node in export(network).graph.node if node.op_type == "ConvTranspose"]


@pytest.mark.parametrize(
    ("channels", "height", "width", "depth"), [(3, 32, 32, 2), (3, 30, 27, 3), (1, 5, 9, 2), (3, 64, 48, 1)]
)
def test_images_of_any_shape_are_padded_and_cropped_inside_the_graph(
    channels: int, height: int, width: int, depth: int
) -> None:
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
    with pytest.raises(BuildError, match=r"cannot export the Undecided to ONNX: .+; torch.export must"):
        export(Undecided())
