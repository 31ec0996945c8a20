"""Questions to NVIDIA's C libraries by ctypes. Runs in a child process: any of these calls may crash or hang."""

import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from pathlib import Path
from typing import Any

CUDA_SUCCESS = 0
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR, INTEGRATED = 75, 76, 18  # CUdevice_attribute, cuda.h

# Library -> its names on Linux, newest first.
SONAMES: dict[str, tuple[str, ...]] = {
    "cudart": ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0"),
    "cudnn": ("libcudnn.so.9", "libcudnn.so.8"),
    "nvinfer": ("libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so.8"),
}


def driver() -> dict[str, Any]:
    """The CUDA driver: its error code, the CUDA version it supports, its devices.

    Raises:
        OSError: there is no libcuda.so.1, or it cannot be loaded.
    """
    cuda = ctypes.CDLL("libcuda.so.1")
    version, count = c_int(), c_int()
    cuda.cuDriverGetVersion(byref(version))
    error = cuda.cuInit(0)
    if error != CUDA_SUCCESS:
        return {"cuda": version.value, "error": error, "error_name": _error_name(cuda, error), "devices": []}
    cuda.cuDeviceGetCount(byref(count))
    return {"cuda": version.value, "error": 0, "devices": [_device(cuda, index) for index in range(count.value)]}


def _error_name(cuda: Any, error: int) -> str:
    name = c_char_p()
    if cuda.cuGetErrorName(error, byref(name)) != CUDA_SUCCESS or not name.value:
        return f"error {error}"
    return name.value.decode(errors="replace")


def _device(cuda: Any, index: int) -> dict[str, Any]:
    device, name, memory = c_int(), ctypes.create_string_buffer(256), c_size_t()
    cuda.cuDeviceGet(byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(byref(memory), device)

    def attribute(which: int) -> int:
        value = c_int()
        cuda.cuDeviceGetAttribute(byref(value), which, device)
        return value.value

    return {
        "name": name.value.decode(errors="replace"),
        "memory_bytes": memory.value,
        "major": attribute(COMPUTE_CAPABILITY_MAJOR),
        "minor": attribute(COMPUTE_CAPABILITY_MINOR),
        "integrated": bool(attribute(INTEGRATED)),
    }


class _Memory(ctypes.Structure):
    """`nvmlMemory_t`, in bytes."""

    _fields_ = (("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong))


def management() -> dict[str, Any]:
    """NVML, the library below nvidia-smi: the driver's version, and each GPU's free memory.

    Raises:
        OSError: there is no libnvidia-ml.so.1, as on most Jetsons, or it cannot be loaded.
    """
    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    nvml.nvmlErrorString.restype = c_char_p
    error = nvml.nvmlInit_v2()
    if error:
        return {"error": (nvml.nvmlErrorString(error) or b"").decode(errors="replace"), "driver": "", "free_bytes": []}
    version, count = ctypes.create_string_buffer(96), c_uint()
    nvml.nvmlSystemGetDriverVersion(version, len(version))
    nvml.nvmlDeviceGetCount_v2(byref(count))
    free = []
    for index in range(count.value):
        handle, memory = c_void_p(), _Memory()
        nvml.nvmlDeviceGetHandleByIndex_v2(index, byref(handle))
        if nvml.nvmlDeviceGetMemoryInfo(handle, byref(memory)) == 0:
            free.append(memory.free)
    return {"error": "", "driver": version.value.decode(errors="replace"), "free_bytes": free}


def library(name: str) -> dict[str, Any]:
    """Every major version of `cudart`, `cudnn` or `nvinfer` that loads: by the loader's own paths, else from pip's.

    The result has `found`, newest first, each with `file` and `version`, in the library's own numbering; `errors`, of
    those that are there and cannot be loaded.
    """
    found: list[dict[str, Any]] = []
    errors: list[str] = []
    for soname in SONAMES[name]:
        for file in (soname, *_from_pip(soname)):
            try:
                loaded = ctypes.CDLL(file)
            except OSError as error:
                if not str(error).startswith(_ABSENT.format(soname)):  # there, but not to be loaded
                    errors.append(str(error))
                continue
            found.append({"file": file, "version": VERSIONS[name](loaded)})
            break
    return {"found": found, "errors": errors}


_ABSENT = "{}: cannot open shared object file"


def _from_pip(soname: str) -> list[str]:
    folders = [Path(folder) / "nvidia" for folder in sys.path if folder]
    return [str(file) for folder in folders for file in sorted(folder.glob(f"*/lib/{soname}"))]


def _cudart_version(cudart: Any) -> int:
    version = c_int()
    cudart.cudaRuntimeGetVersion.argtypes = [POINTER(c_int)]
    cudart.cudaRuntimeGetVersion(byref(version))
    return version.value


def _cudnn_version(cudnn: Any) -> int:
    cudnn.cudnnGetVersion.restype = c_size_t
    return int(cudnn.cudnnGetVersion())


def _nvinfer_version(nvinfer: Any) -> int:
    return int(nvinfer.getInferLibVersion())


VERSIONS = {"cudart": _cudart_version, "cudnn": _cudnn_version, "nvinfer": _nvinfer_version}
