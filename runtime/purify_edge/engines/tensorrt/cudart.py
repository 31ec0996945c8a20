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
        count = _int()
        self._call("cudaGetDeviceCount", ctypes.byref(count))
        if not count.value:
            raise DeviceError("CUDA finds no GPU")
        self.device = self._device()

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            self._library.cudaGetLastError()  # an error that is not taken back is told again by the next call
            words = self._library.cudaGetErrorString(code).decode()
            raise DeviceError(f"{name} failed: {words} ({code})", code=code)

    def _device(self) -> Device:
        properties = ctypes.create_string_buffer(PROPERTIES_BYTES)
        self._call("cudaGetDeviceProperties", properties, 0)
        major, minor = self._attribute(MAJOR), self._attribute(MINOR)
        version = _int()
        self._call("cudaDriverGetVersion", ctypes.byref(version))
        name = properties.raw[:NAME_BYTES].split(b"\0")[0].decode(errors="replace")
        return Device(name, f"{major}.{minor}", f"{version.value // 1000}.{version.value % 1000 // 10}")

    def _attribute(self, attribute: int) -> int:
        value = _int()
        self._call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, 0)
        return value.value

    def _create(self, name: str, *arguments: Any) -> int:
        """Return the handle or address that a call gives through its first argument."""
        handle = _ptr()
        self._call(name, ctypes.byref(handle), *arguments)
        return handle.value or 0

    def malloc(self, size_bytes: int) -> int:
        """Return the address of GPU memory."""
        return self._allocate("cudaMalloc", size_bytes)

    def host_alloc(self, size_bytes: int) -> int:
        """Return the address of page-locked memory, which the GPU copies from and to by itself."""
        return self._allocate("cudaHostAlloc", size_bytes, 0)

    def _allocate(self, name: str, size_bytes: int, *arguments: Any) -> int:
        try:
            return self._create(name, size_bytes, *arguments)
        except DeviceError as error:
            if error.code != OUT_OF_MEMORY:
                raise
            raise DeviceError(
                f"the GPU's memory is used up ({size_bytes / 2**20:.1f} MiB more were asked for); "
                "build engines for smaller batches (--batch), or end other programs on the GPU",
                code=error.code,
            ) from error

    def free(self, address: int) -> None:
        """Give back what `malloc` gave."""
        self._call("cudaFree", address)

    def free_host(self, address: int) -> None:
        """Give back what `host_alloc` gave."""
        self._call("cudaFreeHost", address)

    def copy(self, target: int, source: int, size_bytes: int, kind: int, stream: int) -> None:
        """Have bytes copied, in the stream's turn."""
        self._call("cudaMemcpyAsync", target, source, size_bytes, kind, stream)

    def stream(self) -> int:
        """Return a new stream."""
        return self._create("cudaStreamCreateWithFlags", NON_BLOCKING)

    def synchronize(self, stream: int) -> None:
        """Wait until the stream's work is done; errors of that work show here."""
        self._call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        """End a stream."""
        self._call("cudaStreamDestroy", stream)

    def begin_capture(self, stream: int) -> None:
        """From here on, work is recorded instead of done."""
        self._call("cudaStreamBeginCapture", stream, CAPTURE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """Return the graph of what was recorded, ready for `launch`."""
        captured = _ptr()
        self._call("cudaStreamEndCapture", stream, ctypes.byref(captured))
        graph = captured.value
        try:
            return self._create("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """Have a graph's work done."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give back a graph."""
        self._call("cudaGraphExecDestroy", graph)


def host_array(address: int, count: int) -> NDArray[np.float32]:
    """Page-locked memory as an array of float32."""
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
    """Names and paths of libcudart: the system's, the toolkit's, those of NVIDIA's wheels; newest first."""
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
