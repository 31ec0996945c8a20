"""The range of every layer, for float16: what ONNX Runtime computes on a CPU does not show every overflow."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from purify_runtime.golden import GoldenSplit
from purify_runtime.report import Check
from purify_toolkit.pixels import batch_size, to_float

FLOAT16_MAX = float(torch.finfo(torch.float16).max)


@torch.no_grad()
def largest_activation(network: nn.Module, images: Tensor) -> tuple[str, float]:
    """The module whose float32 output is the largest in size on images `[N, C, H, W]`, and that size."""
    found: dict[str, float] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in filter(torch.is_tensor, tree_leaves(output)):  # a module may give a tuple
                if tensor.is_floating_point() and tensor.numel():
                    found[name] = max(found.get(name, 0.0), float(tensor.abs().max()))

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in network.named_modules()]
    try:
        for batch in images.split(batch_size(images)):
            network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return max(found.items(), key=lambda item: item[1])


def range_check(network: nn.Module, splits: Mapping[str, GoldenSplit]) -> Check:
    """The limit that float16 sets to every layer's output, on the golden images, clean and adversarial.

    An overflow in the middle of a network may stay unseen at its end, behind a sigmoid, and it may be seen on
    adversarial images only.
    """
    images = torch.cat([torch.from_numpy(split.images).permute(0, 3, 1, 2) for split in splits.values()])
    name, value = largest_activation(network, to_float(images))
    return Check(
        name=f"largest activation for fp16, {name}", value=value, limit=FLOAT16_MAX, passed=value < FLOAT16_MAX
    )
