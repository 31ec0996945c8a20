"""The probes of GPUs: NVIDIA's driver, each GPU, CUDA's runtime and cuDNN."""

import re
from collections.abc import Iterator
from functools import partial

from purify_edge.doctor.child import printable
from purify_edge.doctor.findings import Finding, Status
from purify_edge.doctor.host import Host, size
from purify_edge.doctor.libraries import driver_remedy, explain

_gpu = partial(Finding, "gpu")
_cuda = partial(Finding, "cuda")

NVIDIA_VENDOR = "0x10de"

# CUresult -> what it means, and what to do. https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html
CUDA_ERRORS: dict[int, tuple[str, str]] = {
    3: ("the driver is not initialised", "sudo nvidia-modprobe"),
    34: (
        "libcuda.so.1 is the stub of the CUDA toolkit, not the driver's",
        "echo $LD_LIBRARY_PATH  # take stubs out of it",
    ),
    100: ("the driver sees no GPU; CUDA_VISIBLE_DEVICES may hide it", "echo $CUDA_VISIBLE_DEVICES; ls -l /dev/nvidia*"),
    101: ("CUDA_VISIBLE_DEVICES names a GPU that is not there", "unset CUDA_VISIBLE_DEVICES"),
    802: ("the NVSwitch fabric is not up", "sudo systemctl start nvidia-fabricmanager"),
    803: ("the kernel's driver and libcuda.so.1 are of different versions", "sudo reboot"),
    804: ("forward compatibility (cuda-compat) is for data-centre GPUs only", "sudo apt remove 'cuda-compat-*'"),
    999: ("the driver is in a bad state", "sudo dmesg | grep -iE 'nvrm|xid'; sudo reboot"),
}

# The driver that a major version of CUDA needs:
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
OLDEST_DRIVER = {11: "450", 12: "525", 13: "580"}


def probe_gpu(host: Host) -> Iterator[Finding]:
    """Look at the driver, and at the GPUs that it shows."""
    answer = host.native("driver")
    if answer.failure:
        yield _no_driver(host, answer.failure)
        return
    yield _driver(host, answer.result)
    for index, device in enumerate(answer.result["devices"]):
        capability = f"compute capability {device['major']}.{device['minor']}"
        kind = ", integrated" if device["integrated"] else ""
        memory = size(device["memory_bytes"])
        yield _gpu(f"GPU {index}", f"{printable(device['name'])}, {capability}, {memory}{kind}")


def _no_driver(host: Host, failure: str) -> Finding:
    reason, _ = explain(failure, host)
    if "libcuda.so.1: cannot open" not in failure:
        return _gpu("driver", "cannot be used", Status.PROBLEM, reason, driver_remedy(host))
    if host.is_jetson or _nvidia_on_the_bus(host):
        return _gpu("driver", "none", Status.PROBLEM, f"there is an NVIDIA GPU, but {reason}", driver_remedy(host))
    return _gpu("driver", "none", Status.ABSENT, "no NVIDIA GPU was found")


def _nvidia_on_the_bus(host: Host) -> bool:
    """Return whether a display or compute device of NVIDIA is on the PCI bus, as the kernel sees it."""
    for folder in host.glob("/sys/bus/pci/devices/*"):
        name = f"/sys/bus/pci/devices/{folder.name}"
        vendor, kind = host.read(f"{name}/vendor") or "", host.read(f"{name}/class") or ""
        if vendor.strip() == NVIDIA_VENDOR and kind.startswith("0x03"):
            return True
    return False


def _driver(host: Host, result: dict[str, object]) -> Finding:
    cuda, error = int(str(result["cuda"])), int(str(result["error"]))
    version = re.search(r"NVRM version:.*?\s(\d+\.\d+[.\d]*)\s", host.read("/proc/driver/nvidia/version") or "")
    value = f"{version.group(1) + ', ' if version else ''}for CUDA up to {_cuda_version(cuda)}"
    if not error:
        return _gpu("driver", value)
    reason, remedy = CUDA_ERRORS.get(error, ("the driver does not start", driver_remedy(host)))
    if error == 100 and host.in_container:
        reason, remedy = "this container was started without GPUs", driver_remedy(host)
    return _gpu("driver", value, Status.PROBLEM, f"{printable(str(result['error_name']))}: {reason}", remedy)


def _cuda_version(number: int) -> str:
    """Return a CUDA version from its number, 1000 * major + 10 * minor.

    >>> _cuda_version(12060)
    '12.6'
    """
    return f"{number // 1000}.{number % 1000 // 10}"


def probe_cuda(host: Host) -> Iterator[Finding]:
    """Load CUDA's runtime and cuDNN."""
    yield from _library(host, "CUDA runtime", "cudart")
    yield from _fit(host)
    yield from _library(host, "cuDNN", "cudnn")


def _fit(host: Host) -> Iterator[Finding]:
    """Yield a finding where the driver is too old: it runs programs for its own major version of CUDA, and older."""
    files = host.native("library", "cudart").result.get("found", [])
    majors = [int(found) for found in re.findall(r"libcudart\.so\.(\d+)", "\n".join(files))]
    driver = host.native("driver").result.get("cuda", 0)
    if not driver or not majors or min(majors) <= driver // 1000:
        return
    major = min(majors)
    needed = f"driver {OLDEST_DRIVER[major]} or newer" if major in OLDEST_DRIVER else "a newer driver"
    reason = f"CUDA {major} needs {needed}; this one is for CUDA up to {_cuda_version(driver)}"
    remedy = "sudo apt install nvidia-cuda" if host.is_jetson else driver_remedy(host)
    yield _cuda("CUDA and driver", "do not fit", Status.PROBLEM, reason, remedy)


def _library(host: Host, name: str, library: str) -> Iterator[Finding]:
    answer = host.native("library", library)
    errors = answer.failure or "\n".join(map(str, answer.result.get("errors", [])))
    found = answer.result.get("found", [])
    if found:
        yield _cuda(name, ", ".join(found))
    elif errors:
        reason, remedy = explain(errors, host)
        yield _cuda(name, "cannot be loaded", Status.PROBLEM, reason, remedy)
    else:
        yield _cuda(name, "none", Status.ABSENT, "only engines on NVIDIA GPUs need it")
