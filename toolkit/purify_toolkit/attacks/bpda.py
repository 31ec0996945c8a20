"""Backward pass differentiable approximation: the gradient of a purifier that hides or shatters its own."""

from typing import Any

import torch
from torch import Tensor, nn

from purify_toolkit.networks.answers import Model


class _Identity(torch.autograd.Function):
    """Forward the purifier, backward the identity."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, purifier: Model) -> Tensor:
        return purifier(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _IdentityBackward(nn.Module):
    def __init__(self, purifier: Model) -> None:
        super().__init__()
        self.purifier = purifier

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map `[N, C, H, W] -> [N, C, H, W]`."""
        purified: Tensor = _Identity.apply(x_NCHW, self.purifier)
        return purified


def identity_backward(purifier: Model) -> nn.Module:
    """Give a purifier the identity as its gradient: BPDA (Athalye, Carlini and Wagner 2018, arXiv 1802.00420).

    A purifier's output resembles its input, so the identity approximates its Jacobian even where the
    purifier's own is zero or of no use. Attack `nn.Sequential(identity_backward(purifier), classifier)`.
    The purifier need not be differentiable; the module's output is exactly its own.
    """
    return _IdentityBackward(purifier)
