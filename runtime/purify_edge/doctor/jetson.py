"""The probe of a Jetson: model, JetPack, power mode, permission to use the GPU.

Formats by NVIDIA's Jetson Linux Developer Guide; the tests have real files of JetPack 5.1 to 7.2.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from purify_edge.doctor.child import printable
from purify_edge.doctor.findings import Finding, Status
from purify_edge.doctor.host import Host, numbers

_finding = partial(Finding, "jetson")


@dataclass(frozen=True)
class JetPack:
    """A release of JetPack: its first release of Jetson Linux (L4T), and what comes with it."""

    l4t: tuple[int, ...]
    name: str
    cuda: str
    tensorrt: str
    python: str

    @property
    def is_supported(self) -> bool:
        """Return whether its TensorRT's Python package fits a Python that purify-edge supports."""
        return numbers(self.python) >= (3, 10)


# https://developer.nvidia.com/embedded/jetpack-archive
JETPACKS = (
    JetPack((32,), "4", "10.2", "8.2 or older", "3.6"),
    JetPack((34,), "5.0", "11.4", "8.4", "3.8"),
    JetPack((35, 2, 1), "5.1", "11.4", "8.5", "3.8"),
    JetPack((36, 2), "6.0 DP", "12.2", "8.6", "3.10"),
    JetPack((36, 3), "6.0", "12.2", "8.6", "3.10"),
    JetPack((36, 4), "6.1", "12.6", "10.3", "3.10"),
    JetPack((36, 4, 3), "6.2", "12.6", "10.3", "3.10"),
    JetPack((36, 4, 4), "6.2.1", "12.6", "10.3", "3.10"),
    JetPack((36, 5), "6.2.2", "12.6", "10.3", "3.10"),
    JetPack((36, 5, 2), "6.2.3", "12.6", "10.3", "3.10"),
    JetPack((38, 2), "7.0", "13.0", "10.13", "3.12"),
    JetPack((38, 4), "7.1", "13.0", "10.13", "3.12"),
    JetPack((39, 2), "7.2", "13.2", "10.16", "3.12"),
    JetPack((39, 2, 1), "7.2.1", "13.2", "10.16", "3.12"),
)


def jetpack_of(l4t: tuple[int, ...]) -> JetPack | None:
    """Return the JetPack that a release of L4T belongs to; the newest known one for what is newer.

    >>> jetpack_of((36, 4, 7)).name
    '6.2.1'
    """
    return max((jetpack for jetpack in JETPACKS if jetpack.l4t <= l4t), key=lambda jetpack: jetpack.l4t, default=None)


def probe_jetson(host: Host) -> Iterator[Finding]:
    """Look at a Jetson; yield nothing where this is none."""
    if host.l4t is None:
        return
    yield _finding("model", printable(host.read("/proc/device-tree/model") or "unknown"))
    yield _jetpack(host, host.l4t)
    yield _power_mode(host)
    yield from _device_files(host)


def _jetpack(host: Host, l4t: tuple[int, ...]) -> Finding:
    jetpack = jetpack_of(l4t)
    if not l4t or jetpack is None:
        return _finding("JetPack", "unknown", Status.WARNING, "no /etc/nv_tegra_release, no package nvidia-l4t-core")
    newer = " or newer" if l4t > JETPACKS[-1].l4t else ""
    value = f"{jetpack.name}{newer}, Jetson Linux {'.'.join(map(str, l4t))}"
    if not jetpack.is_supported:
        theirs = f"its TensorRT {jetpack.tensorrt} is for Python {jetpack.python}"
        reason = f"{theirs}, purify-edge needs 3.10 or newer: flash JetPack 6 or 7"
        return _finding("JetPack", value, Status.PROBLEM, reason)
    package = host.package_version("nvidia-jetpack")
    if package:
        return _finding("JetPack", f"{value}, nvidia-jetpack {package}")
    brings = f"CUDA {jetpack.cuda} and TensorRT {jetpack.tensorrt}"
    reason = f"the package nvidia-jetpack, which brings {brings}, is not installed"
    remedy = "" if host.in_container else "sudo apt update && sudo apt install nvidia-jetpack"
    return _finding("JetPack", value, Status.OK if host.in_container else Status.WARNING, reason, remedy)


def _power_mode(host: Host) -> Finding:
    answer = host.run("nvpmodel", "-q") or ""
    found = re.search(r"NV Power Mode:\s*(\S+)", answer)
    if not found:
        reason = "nvpmodel -q gives none: it may need root, or is not in this container"
        return _finding("power mode", "unknown", Status.WARNING, reason, "sudo nvpmodel -q")
    mode = printable(found.group(1))
    fastest = _fastest_mode(host.read("/etc/nvpmodel.conf") or "")
    if mode.startswith("MAXN") and (fastest is None or mode == fastest[1]):
        return _finding("power mode", mode)
    if fastest is None:
        return _finding("power mode", mode, Status.WARNING, "this mode limits the clocks", "cat /etc/nvpmodel.conf")
    reason = f"{fastest[1]} is faster, and takes more power: the supply and the cooling must bear it"
    return _finding("power mode", mode, Status.WARNING, reason, f"sudo nvpmodel -m {fastest[0]}")


def _fastest_mode(config: str) -> tuple[int, str] | None:
    """Return number and name of the mode without limits: its number differs from board to board."""
    modes = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", config)
    fastest = [(int(number), name) for number, name in modes if name.startswith("MAXN")]
    return max(fastest, key=lambda mode: len(mode[1]), default=None)  # MAXN_SUPER before MAXN


def _device_files(host: Host) -> Iterator[Finding]:
    """Yield a finding where this user may not use the GPU."""
    for name in ("/dev/nvmap", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0/ctrl"):
        if host.exists(name) and not host.is_writable(name):
            reason = f"this user may not write to {name}"
            remedy = "sudo usermod -aG video,render $USER  # then log in again"
            yield _finding("GPU access", "denied", Status.PROBLEM, reason, remedy)
            return
