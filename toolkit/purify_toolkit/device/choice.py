"""The device that a training or an evaluation runs on."""

import torch

from purify_edge.errors import InputError, MissingError, reason
from purify_toolkit.device.memory import keep_freed_memory


def choose_device(name: str) -> torch.device:
    """Return the device called `name`, if it is here; `auto` is a CUDA GPU, else Apple's, else the CPU.

    On the CPU the process then keeps the memory that it frees, see `memory.keep_freed_memory`.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        kind = name.partition(":")[0]
        if kind in ("cpu", "cuda", "mps"):
            raise MissingError(
                f"device {name!r} cannot be used here: {reason(error)}; --device auto takes what there is"
            ) from error
        raise InputError(f"no device {name!r}: expected auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cpu":
        keep_freed_memory()
    return device
