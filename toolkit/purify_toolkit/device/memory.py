"""Memory: what is free on a device, and what a training keeps there for each image."""

import ctypes
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import torch
from torch import Tensor

BUDGET = 0.5
"""The share of the free memory that a training plans to take: beside what it keeps lie gradients and work space."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
"""Of a container, by version 2 and 1 of Linux's control groups: the files of its limit and use, and what the use counts
of files that were read, which is given back when it is needed."""
CGROUP_FOLDER = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """Return how much memory is free on a device; on the CPU, what the system or a container still gives."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    return min([int(psutil.virtual_memory().available), *_container_bytes()])


def _container_bytes() -> Iterator[int]:
    for limit, used, cached in CGROUPS:
        place = CGROUP_FOLDER / used
        try:
            free = int((CGROUP_FOLDER / limit).read_text()) - int(place.read_text())
            stat = dict(line.split() for line in (place.parent / "memory.stat").read_text().splitlines())
            yield max(0, free + int(stat.get(cached, 0)))
        except (OSError, ValueError):  # no such file; "max"
            continue


def keep_freed_memory() -> None:
    """Keep memory that is freed for the next tensors, rather than return it to the system at once.

    glibc takes a large tensor from the system and returns it each time, which has the kernel clear all its pages: at
    224 x 224 that was 40% of the processor's time of a training step. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


class _Kept:
    """A tensor that is kept for the backward pass, for as long as this is alive."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept_bytes(losses: Callable[[], Mapping[str, Tensor]]) -> int:
    """Return how many bytes are kept for the backward pass of losses, weights among them; each tensor counts once.

    What was kept for the backward passes inside, of attacks, and is free again, does not count.
    """
    kept: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def keep(tensor: Tensor) -> _Kept:
        kept.add(found := _Kept(tensor))
        return found

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda found: found.tensor):
        graph = losses()
    storages = [found.tensor.untyped_storage() for found in kept]
    del graph
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
