"""A user's network as all others see it: pixels in [0, 1] -> float32 logits of two classes or more."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from purify_toolkit.networks.graph_network import GraphNetwork, ImageShape
from purify_toolkit.networks.trial import plain_logits

if TYPE_CHECKING:
    import onnx


class PixelClassifier(nn.Module):
    """A user's network between its normalisation and float32: pixels `[N, C, H, W]` in [0, 1] -> logits `[N, K]`.

    With `flipped`, pixels are RGB and the network takes BGR.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Tensor,
        std: Tensor,
        class_names: tuple[str, ...] = (),
        files: Mapping[str, bytes] | None = None,
        is_whole: bool = False,
        flipped: bool = False,
    ) -> None:
        """Take a network, its names of the outputs, and what a run folder keeps of it, see `doors.opened.Opened`."""
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1))
        self.network, self.flipped, self.class_names = network, flipped, class_names
        self.files, self.is_whole = dict(files or {}), is_whole

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map `[N, C, H, W]` pixels in [0, 1] to `[N, K]` logits."""
        # Contiguous, for images may come channels-last, and many a network flattens its features by view().
        logits: Tensor = plain_logits(self.network(self.normalised(x_NCHW).contiguous()))
        return logits

    def normalised(self, x_NCHW: Tensor) -> Tensor:
        """Return pixels as the network was trained on them."""
        return ((x_NCHW.flip(1) if self.flipped else x_NCHW) - self.mean) / self.std

    @torch.no_grad()
    def prove(self, x_NCHW: Tensor) -> None:
        """Check that a network with a graph of its own answers for pixels as that does; raise InputError otherwise."""
        if isinstance(self.network, GraphNetwork):
            self.network.prove(self.normalised(x_NCHW))

    def own_graph(self, image_shape: ImageShape, *, opset: int) -> "onnx.ModelProto | None":
        """Return the graph of pixels to logits where the network has one of its own; see `GraphNetwork`."""
        if not isinstance(self.network, GraphNetwork):
            return None
        from purify_toolkit.networks.onnx_graphs.pixel_graph import pixel_graph

        given = self.network.graph(image_shape)
        tensors = {"mean": self.mean.cpu(), "std": self.std.cpu()}
        return pixel_graph(given, image_shape, flipped=self.flipped, opset=opset, **tensors)
