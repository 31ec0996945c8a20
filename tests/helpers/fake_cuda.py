"""A CUDA runtime without a GPU: real memory, streams whose work is done when waited for, and the rules enforced.

It stands in for libcudart below our ctypes calls, so that argument types and conversions are exercised too. What CUDA
calls undefined behaviour is a violation here, kept in `violations` and answered by an error; a test that leaves one
fails. Everything is recorded in `calls`.
"""

import ctypes
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

INVALID_VALUE, OUT_OF_MEMORY, INVALID_HANDLE, CAPTURE_UNSUPPORTED, UNKNOWN = 1, 2, 400, 900, 999
WORDS = {
    INVALID_VALUE: b"invalid argument",
    OUT_OF_MEMORY: b"out of memory",
    INVALID_HANDLE: b"invalid resource handle",
    35: b"CUDA driver version is insufficient for CUDA runtime version",
    100: b"no CUDA-capable device is detected",
    700: b"an illegal memory access was encountered",
    CAPTURE_UNSUPPORTED: b"operation not permitted when stream is capturing",
}
GARBAGE = 0xFF  # as float32: NaN


@dataclass
class Memory:
    kind: str
    size: int
    buffer: Any


@dataclass
class Stream:
    queue: list[Callable[[], None]] = field(default_factory=list)
    capturing: list[Callable[[], None]] | None = None
    capturing_thread: int = 0
    spoilt: bool = False


class Refused(Exception):
    """An answer other than success."""

    def __init__(self, code: int, violation: str = "") -> None:
        super().__init__(violation)
        self.code, self.violation = code, violation


class Function:
    """A C function: our arguments are converted by ctypes as they would be for libcudart."""

    argtypes: tuple[Any, ...]
    restype: Any

    def __init__(self, name: str, gpu: "FakeCuda") -> None:
        self.name, self.gpu = name, gpu

    def __call__(self, *arguments: Any) -> Any:
        if self.restype is ctypes.c_char_p:  # a callback cannot return what outlives it
            return self.gpu.answer(self.name, arguments)
        return ctypes.CFUNCTYPE(self.restype, *self.argtypes)(lambda *given: self.gpu.answer(self.name, given))(
            *arguments
        )


class FakeCuda:
    """What `ctypes.CDLL("libcudart.so")` would be.

    `fail` maps a function's name to an error, or to a function of no arguments that gives one (0 for none).
    """

    def __init__(self, *, name: str = "Fake RTX", capability: tuple[int, int] = (8, 6), driver: int = 13000) -> None:
        self.name, self.capability, self.driver, self.count = name, capability, driver, 1
        self.capacity_bytes = 2**30
        self.fail: dict[str, int | Callable[[], int]] = {}
        self.memory: dict[int, Memory] = {}
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.executables: dict[int, list[Callable[[], None]]] = {}
        self.violations: list[str] = []
        self.calls: Counter[str] = Counter()
        self.lock = threading.RLock()
        self._handles = itertools.count(0x1000)
        self._quarantine: list[Any] = []  # freed memory is never reused, so that its use is seen, not a crash

    def __getattr__(self, name: str) -> Function:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        if name != "cudaGetErrorString" and not hasattr(type(self), f"_{name}"):
            raise AttributeError(name)
        function = Function(name, self)
        setattr(self, name, function)
        return function

    def answer(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "cudaGetErrorString":
            return WORDS.get(arguments[0], b"unknown error")
        with self.lock:
            self.calls[name] += 1
            code = self.fail.get(name, 0)
            code = code() if callable(code) else code
            if code:
                return code
            try:
                getattr(self, f"_{name}")(*arguments)
            except Refused as refused:
                if refused.violation:
                    self.violations.append(f"{name}: {refused.violation}")
                return refused.code
            except Exception as error:  # ctypes would only print it
                self.violations.append(f"{name}: {error!r}")
                return UNKNOWN
            return 0

    def live(self) -> dict[str, int]:
        """How much of each kind has not been given back."""
        kinds = Counter(memory.kind for memory in self.memory.values())
        handles = {"stream": len(self.streams), "graph": len(self.graphs), "executable": len(self.executables)}
        return dict(kinds) | {kind: count for kind, count in handles.items() if count}

    def region(self, address: int | None, size: int, kind: str) -> Any:
        """A view of memory of a kind; refused where it is not all there."""
        for start, memory in self.memory.items():
            if address is not None and start <= address and address + size <= start + memory.size:
                if memory.kind != kind:
                    raise Refused(INVALID_VALUE, f"{memory.kind} memory where {kind} memory is needed")
                return (ctypes.c_char * size).from_address(address)
        raise Refused(INVALID_VALUE, f"{size} bytes at {address} are not {kind} memory")

    def stream(self, handle: int | None) -> Stream:
        if handle not in self.streams:
            raise Refused(INVALID_HANDLE, f"no stream {handle}")
        return self.streams[handle]

    def enqueue(self, handle: int | None, work: Callable[[], None]) -> None:
        stream = self.stream(handle)
        (stream.queue if stream.capturing is None else stream.capturing).append(work)

    def _cudaGetDeviceCount(self, count: Any) -> None:
        count[0] = self.count

    def _cudaGetDeviceProperties(self, properties: int, device: int) -> None:
        ctypes.memmove(properties, self.name.encode() + b"\0", len(self.name) + 1)

    def _cudaDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> None:
        value[0] = self.capability[{75: 0, 76: 1}[attribute]]

    def _cudaDriverGetVersion(self, version: Any) -> None:
        version[0] = self.driver

    def _cudaGetLastError(self) -> None:
        pass

    def _allocate(self, kind: str, target: Any, size: int) -> None:
        mine = [
            stream
            for stream in self.streams.values()
            if stream.capturing is not None and stream.capturing_thread == threading.get_ident()
        ]
        for stream in mine:
            stream.spoilt = True
        if mine:  # the capture's mode is thread-local: other threads may allocate
            raise Refused(CAPTURE_UNSUPPORTED, "allocation during a capture")
        if not size:
            raise Refused(INVALID_VALUE, "allocation of nothing")
        if sum(memory.size for memory in self.memory.values()) + size > self.capacity_bytes:
            raise Refused(OUT_OF_MEMORY)
        buffer = (ctypes.c_char * size)()
        address = ctypes.addressof(buffer)
        ctypes.memset(address, GARBAGE, size)
        self.memory[address] = Memory(kind, size, buffer)
        target[0] = address

    def _cudaMalloc(self, target: Any, size: int) -> None:
        self._allocate("device", target, size)

    def _cudaHostAlloc(self, target: Any, size: int, flags: int) -> None:
        self._allocate("host", target, size)

    def _release(self, kind: str, address: int) -> None:
        memory = self.memory.get(address)
        if memory is None or memory.kind != kind:
            raise Refused(INVALID_VALUE, f"{address} is no {kind} memory to free")
        if any(stream.queue for stream in self.streams.values()):
            raise Refused(INVALID_VALUE, "memory freed while work is pending")
        ctypes.memset(address, GARBAGE, memory.size)
        self._quarantine.append(self.memory.pop(address).buffer)

    def _cudaFree(self, address: int) -> None:
        self._release("device", address)

    def _cudaFreeHost(self, address: int) -> None:
        self._release("host", address)

    def _cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        kinds = {1: ("device", "host"), 2: ("host", "device")}[kind]
        self.region(target, size, kinds[0])
        self.region(source, size, kinds[1])

        def work() -> None:
            self.region(target, size, kinds[0])[:] = self.region(source, size, kinds[1])[:]

        self.enqueue(stream, work)

    def _cudaStreamCreateWithFlags(self, target: Any, flags: int) -> None:
        if flags != 1:
            raise Refused(INVALID_VALUE, "a stream that waits for the default stream")
        target[0] = handle = next(self._handles)
        self.streams[handle] = Stream()

    def _cudaStreamSynchronize(self, handle: int) -> None:
        stream = self.stream(handle)
        if stream.capturing is not None:
            stream.spoilt = True
            raise Refused(CAPTURE_UNSUPPORTED, "synchronisation during a capture")
        queue, stream.queue = stream.queue, []
        for work in queue:
            work()

    def _cudaStreamDestroy(self, handle: int) -> None:
        if self.stream(handle).queue:
            raise Refused(INVALID_HANDLE, "a stream with pending work destroyed")
        del self.streams[handle]

    def _cudaStreamBeginCapture(self, handle: int, mode: int) -> None:
        stream = self.stream(handle)
        if stream.capturing is not None or mode != 1:
            raise Refused(INVALID_VALUE, "a capture within a capture, or one that stops other threads' allocations")
        stream.capturing, stream.capturing_thread = [], threading.get_ident()

    def _cudaStreamEndCapture(self, handle: int, target: Any) -> None:
        stream = self.stream(handle)
        work, stream.capturing = stream.capturing, None
        spoilt, stream.spoilt = stream.spoilt, False
        if work is None or spoilt:
            raise Refused(CAPTURE_UNSUPPORTED)
        target[0] = graph = next(self._handles)
        self.graphs[graph] = work

    def _cudaGraphInstantiateWithFlags(self, target: Any, graph: int, flags: int) -> None:
        target[0] = executable = next(self._handles)
        self.executables[executable] = self.graphs[graph]

    def _cudaGraphDestroy(self, graph: int) -> None:
        del self.graphs[graph]

    def _cudaGraphLaunch(self, executable: int, stream: int) -> None:
        for work in self.executables[executable]:
            self.enqueue(stream, work)

    def _cudaGraphExecDestroy(self, executable: int) -> None:
        if any(stream.queue for stream in self.streams.values()):
            raise Refused(INVALID_VALUE, "a graph destroyed while work is pending")
        del self.executables[executable]
