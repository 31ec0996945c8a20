"""Networks that come to the bundle by an ONNX graph of their own, not by PyTorch's export of them."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    import onnx

ImageShape = tuple[int, int, int]
"""Channels, height, width."""


class GraphNetwork(nn.Module):
    """A network whose PyTorch side gives answers and gradients, and whose graph goes into the bundle.

    Both take images `[N, C, H, W]` without normalisation.
    """

    def graph(self, image_shape: ImageShape) -> "onnx.ModelProto":
        """Return the graph, its batch dynamic: one input, one output."""
        raise NotImplementedError

    def prove(self, x_NCHW: Tensor) -> None:
        """Check on normalised images that PyTorch's answers are those of the graph; raise InputError otherwise."""
        raise NotImplementedError
