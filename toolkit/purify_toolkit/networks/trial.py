"""A network's trial: what it gives for a few images, and whether that depends on each image alone."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from purify_edge.errors import InputError, reason
from purify_toolkit.networks.weights import listed

NOISE = 0.01
"""How far answers may lie apart, in relation to the largest: for another batch kernels add in another order, on a GPU
in TF32. What computes with the batch's statistics, or draws at random, lies further apart."""


def plain_logits(answer: Any) -> Any:
    """Return the logits in a network's answer, float32 `[N, K]`; one without any as it is, which `answer_of` refuses.

    They are the answer itself, what it calls `logits`, or its only floats `[N, K]`. A single logit, of a sigmoid, is
    that of the second of two classes.
    """
    logits = _unwrapped(answer)
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        return answer
    logits = logits.float()
    if logits.ndim == 1:
        logits = logits.unsqueeze(1)
    is_single = logits.ndim == 2 and logits.shape[1] == 1
    return torch.cat([torch.zeros_like(logits), logits], 1) if is_single else logits


def _unwrapped(answer: Any) -> Any:
    if isinstance(answer, Tensor):
        return answer
    content = dict(answer) if isinstance(answer, Mapping) else getattr(answer, "__dict__", {})
    named = content.get("logits", getattr(answer, "logits", None))
    if isinstance(named, Tensor):
        return named
    parts = answer if isinstance(answer, tuple | list) else content.values()
    found = [part for part in parts if isinstance(part, Tensor) and part.is_floating_point() and part.ndim == 2]
    return found[0] if len(found) == 1 else answer


def check_float32(role: str, network: nn.Module) -> None:
    """Raise InputError unless all parameters and buffers are in float32 and on the CPU."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.device.type != "cpu" or (tensor.is_floating_point() and tensor.dtype != torch.float32):
            raise InputError(
                f"the {role} must be in float32 on the CPU, its {name} is {tensor.dtype} on {tensor.device}; "
                f"call {role}.float().cpu() first"
            )


def answer_of(role: str, network: nn.Module, images: Tensor) -> Tensor:
    """Return what a network gives for images `[N, C, H, W]`: one tensor of finite floats, of any shape.

    Raises:
        InputError: it fails, or gives anything else.
    """
    try:
        answer: object = network(images)
    except Exception as error:  # a user's network may raise anything
        channels, height, width = images.shape[1:]
        raise InputError(
            f"the {role} cannot take images of {height}x{width} with {channels} channels: {reason(error)}; a network "
            "that does not pool over all of the image takes no other size than that it was trained on, and the images "
            "of a training have the recipe's image_size and channels"
        ) from error
    if not isinstance(answer, Tensor) or not answer.is_floating_point():
        wanted = "its logits, floats [N, K]" if role == "classifier" else "its images, float32 [N, C, H, W]"
        raise InputError(
            f"the {role} gives {_described(answer)}, expected one tensor, {wanted}; wrap it in a torch.nn.Module whose "
            "forward returns that alone"
        )
    if not answer.isfinite().all():
        raise InputError(f"the {role} gives numbers that are not finite; check its weights and its normalisation")
    return answer


def _described(answer: object) -> str:
    """Describe what a network gave.

    >>> _described((torch.zeros(2, 3), None))
    'a tuple of float32 [2, 3], None'
    """
    if isinstance(answer, Tensor):
        return f"{str(answer.dtype).removeprefix('torch.')} {list(answer.shape)}"
    if isinstance(answer, Mapping):
        return f"a {type(answer).__name__} of " + listed(f"{key}: {_described(part)}" for key, part in answer.items())
    if isinstance(answer, tuple | list):
        fields = getattr(answer, "_fields", [""] * len(answer))
        parts = (f"{name}: " * bool(name) + _described(part) for name, part in zip(fields, answer, strict=True))
        return f"a {type(answer).__name__} of " + listed(parts)
    return "None" if answer is None else f"a {type(answer).__name__}"


@torch.no_grad()
def check_independence(role: str, network: nn.Module, images: Tensor) -> None:
    """Check that an image's answer depends on nothing else: no chance, no other image, no place in the batch.

    Raises:
        InputError: it does; the message says on what.
    """
    answer = network(images)
    chance = "something is random, such as F.dropout without training=self.training"
    if not _alike(network(images), answer):
        raise InputError(f"the {role} gives other answers when it is asked again: {chance}")
    trials: dict[str, Callable[[], Tensor]] = {
        "each alone": lambda: torch.cat([network(image) for image in images.split(1)]),
        "in another order": lambda: network(images.flip(0)).flip(0),
    }
    for how, run in trials.items():
        try:
            alike = _alike(run(), answer)
            problem = f"gives other answers for images {how} than for the same {len(images)} in one batch"
        except Exception as error:  # a user's network may raise anything
            alike = False
            problem = f"fails at images {how}, not at the same {len(images)} in one batch ({reason(error)})"
        if not alike:
            raise InputError(f"the {role} {problem}: an answer may depend on its own image only; {_suspicion(network)}")


def _alike(found: Tensor, answer: Tensor) -> bool:
    if found.shape != answer.shape:
        return False
    return bool((found - answer).abs().max() <= NOISE * answer.abs().max())


def _suspicion(network: nn.Module) -> str:
    """Name the layers that compute with the batch's statistics, where some do."""
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
    ]
    if layers:
        return f"BatchNorm uses the batch's statistics in {listed(layers)}: keep track_running_stats=True and eval mode"
    return "look for F.batch_norm with training=True, and for what is computed over dimension 0, the batch"
