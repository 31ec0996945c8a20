"""The machine: what it is, what this process may use of it, and where its user's files go."""

import ctypes
import errno
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

GPU_DEVICES = ("nvidiactl", "nvidia0", "nvhost-gpu", "nvgpu", "nvmap", "dxg")
"""Of NVIDIA's driver, of Jetsons, of the Windows Subsystem for Linux."""
CPUINFO = Path("/proc/cpuinfo")
WIDE_SUMS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""What Linux calls the instructions of x86-64 that add products of 8-bit numbers in 32 bits."""


def environment(versions: dict[str, str]) -> dict[str, Any]:
    """Describe the machine for a report; `versions` are added to numpy's and Python's."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "versions": {"numpy": np.__version__} | versions,
    }


def processor() -> str:
    """Return the processor's model, where Linux tells it; on a Jetson the board's."""
    for path, key in (("/proc/device-tree/model", ""), ("/proc/cpuinfo", "model name")):
        try:
            text = Path(path).read_text(errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith(key):
                return line.rpartition(":")[2].strip(" \0")
    return platform.processor() or "unknown"


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def integers_may_saturate(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether sums of 8-bit products may saturate here: on Linux on x86-64 without any of WIDE_SUMS.

    Integer kernels then add two products in 16 bits, which are too few where activations and weights are large; see
    oneDNN's "Nuances of int8 computations", https://uxlfoundation.github.io/oneDNN/dev_guide_int8_computations.html.
    ONNX Runtime's documentation of quantisation advises 7-bit weights (`reduce_range`) for the same reason. Elsewhere,
    and where nothing tells, the sums are taken to be exact.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), None)
    return flags is not None and WIDE_SUMS.isdisjoint(flags)


def may_have_gpu() -> bool:
    """Return whether there may be a GPU for CUDA: on Linux one has left its device file; elsewhere who knows."""
    return sys.platform != "linux" or any(Path("/dev", name).exists() for name in GPU_DEVICES)


def user_folder(variable: str, default: str) -> Path:
    """Return the user's folder for state or cached files, by the XDG base directory specification.

    Raises:
        FileNotFoundError: the user has no home.
    """
    given = Path(os.environ.get(variable, ""))
    try:
        return (given if given.is_absolute() else Path.home() / default) / "purify-edge"
    except RuntimeError as error:
        raise FileNotFoundError(errno.ENOENT, f"no home folder: set {variable}", str(error)) from error


def return_memory() -> None:
    """Return freed memory to the system; after a model was opened, because what it was read into is garbage by then.

    glibc keeps it otherwise: 20 to 30 MiB after two models of 9 MB together. Other C libraries return it themselves, or
    cannot be made to.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
