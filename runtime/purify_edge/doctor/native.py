"""The child's side of `child.py`: what loads native code, which may crash, hang or never return."""

import base64
import ctypes
import importlib
import json
import re
import sys
from collections.abc import Callable
from ctypes import byref, c_char_p, c_int, c_size_t
from pathlib import Path
from typing import Any

from purify_edge.doctor.child import MARK
from purify_edge.extras import silence
from purify_edge.power.nvml import NvmlGpu, gpu_meter

CUDA_SUCCESS = 0
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR, INTEGRATED = 75, 76, 18  # CUdevice_attribute, cuda.h

LIBRARIES: dict[str, tuple[str, ...]] = {
    "cudart": ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0"),
    "cudnn": ("libcudnn.so.9", "libcudnn.so.8"),
    "nvinfer": ("libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so.8"),
}
"""Library -> its names on Linux, newest first."""

INPUT, OUTPUT = "images", "purified"
PROBE_GRAPH = base64.b64decode(
    "CAgSC3B1cmlmeS1lZGdlOvMBCkcKBmltYWdlcwoHd2VpZ2h0cxIEc3VtcyIEQ29udioVCgxrZXJuZWxfc2hhcGVAA0ADoAEHKhEK"
    "BHBhZHNAAUABQAFAAaABBwoWCgRzdW1zEghwdXJpZmllZCIEUmVsdRIFcHJvYmUqOQgBCAEIAwgDEAFCB3dlaWdodHNKJAAAgD8A"
    "AIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAP1olCgZpbWFnZXMSGwoZCAESFQoHEgViYXRjaAoCCAEKAggICgIICGInCghw"
    "dXJpZmllZBIbChkIARIVCgcSBWJhdGNoCgIIAQoCCAgKAggIQgQKABAR"
)
"""ONNX, opset 17: float32 `[batch, 1, 8, 8]`, each pixel replaced by the sum of the 3x3 pixels around it.

A convolution and a ReLU need what a purifier needs: kernels for this GPU, and cuDNN where that is used. A test makes
the same graph with the package onnx.
"""


_ALONG = [2.0, *[3.0] * 6, 2.0]
RIGHT_ANSWER = [[row * column for column in _ALONG] for row in _ALONG]
"""The output for an image of ones: how many neighbours each pixel has, itself included."""


def driver() -> dict[str, Any]:
    """Return the CUDA driver's error code, the CUDA version that it supports, and its devices."""
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


def library(name: str) -> dict[str, Any]:
    """Load each major version of a key of LIBRARIES by the loader's own paths, else from pip's packages.

    `found` are the files that load, newest first; `errors` are of those that are there and do not.
    """
    found: list[str] = []
    errors: list[str] = []
    for soname in LIBRARIES[name]:
        for file in (soname, *_from_pip(soname)):
            try:
                ctypes.CDLL(file)
            except OSError as error:
                if not str(error).startswith(f"{soname}: cannot open shared object file"):
                    errors.append(str(error))
                continue
            found.append(file)
            break
    return {"found": found, "errors": errors}


def energy() -> dict[str, Any]:
    """Return the `meter` of the GPU that CUDA calls 0, or the `reason` why there is none; without GPU nothing."""
    try:
        gpu = NvmlGpu()
    except OSError:
        return {}
    meter, reason = gpu_meter(gpu)
    return {"meter": meter.name if meter else "", "reason": reason}


def _from_pip(soname: str) -> list[str]:
    folders = [Path(folder) / "nvidia" for folder in sys.path if folder]
    return [str(file) for folder in folders for file in sorted(folder.glob(f"*/lib/{soname}"))]


def module(name: str) -> dict[str, Any]:
    """Import a module and return its version and its file."""
    imported = importlib.import_module(name)
    file = getattr(imported, "__file__", None)
    if file is None:  # a namespace package: a folder that lost its files, after an uninstallation for example
        raise ImportError(f"{name} is an empty folder, not a package: {', '.join(map(str, imported.__path__))}")
    return {"version": str(getattr(imported, "__version__", "")), "file": str(file)}


def opencv() -> dict[str, Any]:
    """Import OpenCV and return its version, and what it was built to read videos and cameras with, and without."""
    import cv2

    information = cv2.getBuildInformation()
    built = {
        name: re.search(rf"^\s*{line}:\s+YES", information, re.MULTILINE) is not None
        for name, line in (("FFmpeg", "FFMPEG"), ("GStreamer", "GStreamer"), ("V4L2", "v4l/v4l2"))
    }
    return {"version": str(cv2.__version__), "built": built}


def gstreamer() -> dict[str, Any]:
    """Start GStreamer and return its version, what decodes network cameras, and which elements for them are missing."""
    from purify_edge.images.cameras import addresses
    from purify_edge.images.cameras.gstreamer import gstreamer as started

    library = started()
    decoder = library.first_of(addresses.H264_DECODERS) if library.has("rtspsrc") else None
    missing = [name for name in addresses.OF_A_JETSON if not library.has(name)]
    return {"version": library.version, "decoder": decoder or "", "missing_on_jetson": missing}


def rtx_capabilities() -> dict[str, Any]:
    """Return the compute capabilities that TensorRT for RTX has code for, such as `8.9`."""
    from purify_edge.engines.tensorrt.library import load_library

    return {"capabilities": load_library("tensorrt_rtx").compute_capabilities()}


def engines() -> dict[str, Any]:
    """Return the engines that `--engine` takes: name, device and extra."""
    from purify_edge.engines.registry import ENGINES

    return {"engines": [{"name": name, "device": row.device, "extra": row.extra} for name, row in ENGINES.items()]}


def engine(name: str) -> dict[str, Any]:
    """Run the probe graph on one of purify-edge's engines, as `purify-run --engine NAME` would."""
    import numpy as np

    from purify_edge.engines.registry import open_engine

    with open_engine(name, PROBE_GRAPH, source="the doctor's probe graph") as opened:
        output = opened.run(np.ones((1, 1, 8, 8), np.float32))
        difference = float(np.abs(output - np.asarray(RIGHT_ANSWER, np.float32)).max())
        if not difference < 1e-3:
            raise RuntimeError(f"wrong numbers: off by {difference:g} in a convolution of small integers")
        return {"device": opened.device, "version": opened.version}


NATIVE: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function
    for function in (driver, library, energy, module, opencv, gstreamer, rtx_capabilities, engines, engine)
}


def main() -> None:
    """Call the function that the arguments name with the rest of them, and print what came of it."""
    function, *arguments = sys.argv[2:]
    silence()  # a look at this machine is nobody else's business
    result: dict[str, Any] = {}
    failure = ""
    try:
        result = NATIVE[function](*arguments)
    except BaseException as error:  # SystemExit too: a package that ends the process on import is a finding
        failure = f"{type(error).__name__}: {error}"
    print(f"\n{MARK}{json.dumps({'result': result, 'failure': failure}, default=str)}", flush=True)
