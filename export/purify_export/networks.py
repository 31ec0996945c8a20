"""The pair of PyTorch networks that is exported."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from purify_edge.bundle.manifest import Role
from purify_toolkit.networks.trial import plain_logits
from purify_toolkit.runs.folder import RunFolder

ImageShape = tuple[int, int, int]
"""Channels, height, width."""


class PlainLogits(nn.Module):
    """A classifier whose logits are wrapped, of another float type, or a single one, and what makes them plain."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map `[N, C, H, W]` pixels in [0, 1] to `[N, K]` float32 logits."""
        logits: Tensor = plain_logits(self.classifier(x_NCHW))
        return logits


@dataclass(frozen=True)
class Networks:
    """A purifier and a classifier, float32, on the CPU, in evaluation mode."""

    purifier: nn.Module
    classifier: nn.Module

    @classmethod
    def load(cls, run: RunFolder) -> "Networks":
        """Read the weights of a run; raise InputError where it is not finished, or its files are damaged."""
        return cls(run.load_student(), run.load_classifier())

    @cached_property
    def defended(self) -> nn.Module:
        """The classifier after the purifier."""
        return nn.Sequential(self.purifier, self.classifier).eval()

    def flop(self, image_shape: ImageShape) -> dict[Role, int]:
        """Return the floating-point operations of one image by role; see `flop_of`."""
        purifier, classifier = (flop_of(network, image_shape) for network in (self.purifier, self.classifier))
        return {
            "purifier": purifier,
            "classifier": classifier,
            "defended": purifier + classifier,
            "served": purifier + 2 * classifier,
        }


def flop_of(network: nn.Module, image_shape: ImageShape) -> int:
    """Return a network's floating-point operations for one image in convolutions, matrix products and attention.

    A multiplication and an addition count as two.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # what is fused, here and in attention, is not counted
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *image_shape))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())
