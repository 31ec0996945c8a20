"""Memory: what is free on a device, and what a training keeps there for each image."""

import ctypes
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

BUDGET = 0.5
"""The share of the free memory that a training plans to take: beside what it keeps lie gradients and work space."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of a container's memory, by version 2 and 1 of Linux's control groups."""


def free_bytes(device: torch.device) -> int:
    """Return how much memory is free on a device; on the CPU, what the system or a container still gives."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    free: int = psutil.virtual_memory().available
    for limit, used in CGROUPS:
        try:
            free = min(free, max(0, int(Path(limit).read_text()) - int(Path(used).read_text())))
        except (OSError, ValueError):  # no such file; "max"
            continue
    return free


def keep_freed_memory() -> None:
    """Keep memory that is freed for the next tensors, rather than return it to the system at once.

    glibc takes a large tensor from the system and returns it each time, which has the kernel clear all its pages: at
    224 x 224 that was 40% of the processor's time of a training step. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def kept_bytes(losses: Callable[[], Mapping[str, Tensor]], network: nn.Module) -> int:
    """Return how many bytes are kept for the backward pass, but for the network's own weights."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # or a freed tensor's place would be another's

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses()
    return sum(kept.values())
