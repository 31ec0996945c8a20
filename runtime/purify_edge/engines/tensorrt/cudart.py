"""CUDA's runtime library by ctypes: the few calls that running an engine takes.

cuda-python would do the same, but it is bound to one major version of CUDA and is not part of a JetPack; libcudart
is there wherever TensorRT is.
"""

import ctypes
import ctypes.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.errors import DeviceError, MissingError

VERSIONS = (13, 12, 11)
TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind
NON_BLOCKING = 1  # cudaStreamNonBlocking: TensorRT is slower on the default stream
CAPTURE_THREAD_LOCAL = 1  # other threads may allocate meanwhile
MAJOR, MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, Minor
OUT_OF_MEMORY = 2
PROPERTIES_BYTES = 8192  # more than cudaDeviceProp has in any version; it begins with the name
NAME_BYTES = 256

_ptr, _size, _int, _uint = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaGetDeviceCount": (ctypes.POINTER(_int),),
    "cudaGetDeviceProperties": (_ptr, _int),
    "cudaDeviceGetAttribute": (ctypes.POINTER(_int), _int, _int),
    "cudaDriverGetVersion": (ctypes.POINTER(_int),),
    "cudaGetLastError": (),
    "cudaMalloc": (ctypes.POINTER(_ptr), _size),
    "cudaFree": (_ptr,),
    "cudaHostAlloc": (ctypes.POINTER(_ptr), _size, _uint),
    "cudaFreeHost": (_ptr,),
    "cudaMemcpyAsync": (_ptr, _ptr, _size, _int, _ptr),
    "cudaStreamCreateWithFlags": (ctypes.POINTER(_ptr), _uint),
    "cudaStreamSynchronize": (_ptr,),
    "cudaStreamDestroy": (_ptr,),
    "cudaStreamBeginCapture": (_ptr, _int),
    "cudaStreamEndCapture": (_ptr, ctypes.POINTER(_ptr)),
    "cudaGraphInstantiateWithFlags": (ctypes.POINTER(_ptr), _ptr, ctypes.c_ulonglong),
    "cudaGraphLaunch": (_ptr, _ptr),
    "cudaGraphExecDestroy": (_ptr,),
    "cudaGraphDestroy": (_ptr,),
}
"""The functions that are called, each returning a cudaError_t, and their arguments; the same in CUDA 11.4 to 13."""


@dataclass(frozen=True)
class Device:
    """A GPU: its name, its compute capability (`8.7`, say), and the CUDA version of its driver."""

    name: str
    compute_capability: str
    driver: str

    @property
    def capability(self) -> tuple[int, int]:
        """Return the compute capability as numbers."""
        major, _, minor = self.compute_capability.partition(".")
        return int(major), int(minor)


class Cuda:
    """The CUDA runtime on GPU 0.

    Args:
        library: what ctypes loaded.

    Raises:
        DeviceError: it finds no GPU that works.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        for name, arguments in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, _int
        library.cudaGetErrorString.argtypes, library.cudaGetErrorString.restype = (_int,), ctypes.c_char_p
        if not self._number("cudaGetDeviceCount"):
            raise DeviceError("CUDA finds no GPU")
        self.device = self._device()

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of SIGNATURES.

        Raises:
            DeviceError: it fails.
        """
        code = getattr(self._library, name)(*arguments)
        if code:
            self._library.cudaGetLastError()  # else the next call reports the same error again
            words = self._library.cudaGetErrorString(code).decode()
            raise DeviceError(f"{name} failed: {words} ({code})", code=code)

    def create(self, name: str, *arguments: Any) -> int:
        """Return the handle or address that a function gives through its first argument; see `call`."""
        handle = _ptr()
        self.call(name, ctypes.byref(handle), *arguments)
        return handle.value or 0

    def _number(self, name: str, *arguments: int) -> int:
        value = _int()
        self.call(name, ctypes.byref(value), *arguments)
        return value.value

    def _device(self) -> Device:
        properties = ctypes.create_string_buffer(PROPERTIES_BYTES)
        self.call("cudaGetDeviceProperties", properties, 0)
        name = properties.raw[:NAME_BYTES].split(b"\0")[0].decode(errors="replace")
        major, minor = (self._number("cudaDeviceGetAttribute", which, 0) for which in (MAJOR, MINOR))
        version = self._number("cudaDriverGetVersion")
        return Device(name, f"{major}.{minor}", f"{version // 1000}.{version % 1000 // 10}")

    def allocate(self, name: str, size_bytes: int, *arguments: int) -> int:
        """Return the address of memory from `cudaMalloc` or `cudaHostAlloc`."""
        try:
            return self.create(name, size_bytes, *arguments)
        except DeviceError as error:
            if error.code != OUT_OF_MEMORY:
                raise
            raise DeviceError(
                f"the GPU's memory is used up ({size_bytes / 2**20:.1f} MiB more were requested); "
                "build engines for smaller batches (--batch), or end other programs on the GPU",
                code=error.code,
            ) from error

    def begin_capture(self, stream: int) -> None:
        """From here on, record the stream's work instead of doing it."""
        self.call("cudaStreamBeginCapture", stream, CAPTURE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """Return the graph of what was recorded, ready for `cudaGraphLaunch`."""
        captured = _ptr()
        self.call("cudaStreamEndCapture", stream, ctypes.byref(captured))
        try:
            return self.create("cudaGraphInstantiateWithFlags", captured, 0)
        finally:
            self.call("cudaGraphDestroy", captured)


def host_array(address: int, count: int) -> NDArray[np.float32]:
    """Return page-locked memory as an array of float32."""
    array: NDArray[np.float32] = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))
    return array


def open_cuda() -> Cuda:
    """Return the first libcudart on this machine that works with its driver.

    Raises:
        MissingError: there is none.
    """
    reasons: dict[str, None] = {}
    for name in _candidates():
        try:
            return Cuda(_load(name))
        except (OSError, AttributeError):  # not there, or not the library
            continue
        except DeviceError as error:
            reasons[str(error)] = None
    if reasons:
        raise MissingError(f"needs an NVIDIA GPU and its driver: {'; '.join(reasons)}")
    raise MissingError(
        "needs CUDA's runtime library, libcudart.so: it comes with JetPack and the CUDA toolkit, "
        "or by pip install nvidia-cuda-runtime"
    )


def _load(name: str) -> Any:
    return ctypes.CDLL(name)


def _candidates() -> Iterator[str]:
    """Yield names and paths of libcudart: the system's, the toolkit's, those of NVIDIA's wheels; newest first."""
    for version in VERSIONS:
        yield f"libcudart.so.{version}" + (".0" if version == 11 else "")
    found = ctypes.util.find_library("cudart")
    if found:
        yield found
    folders = [Path("/usr/local/cuda/lib64"), *sorted(Path("/usr/local").glob("cuda*/targets/*/lib"), reverse=True)]
    for entry in sys.path:
        folders += [folder for folder in Path(entry or ".").glob("nvidia/*/lib") if folder.is_dir()]
    for folder in folders:
        yield from map(str, sorted(folder.glob("libcudart.so.*"), reverse=True))
