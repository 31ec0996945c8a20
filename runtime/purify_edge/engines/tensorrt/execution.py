"""Execution: one or more engines in a row on the GPU, each one's output buffer being the next one's input.

A *lane* is what one thread needs at a time: a stream, buffers, and a *plan* for each batch size. A plan is an
execution context an engine, with shapes and addresses set once, and what they do as a CUDA graph. TensorRT wants a
context of its own for each captured graph; all contexts of a lane share one scratch memory, because they run in turn.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from logging import getLogger
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from purify_edge.engines.tensorrt.cudart import NON_BLOCKING, TO_DEVICE, TO_HOST, Cuda, host_array
from purify_edge.engines.tensorrt.library import Library
from purify_edge.errors import BundleError, DeviceError

if TYPE_CHECKING:
    import tensorrt

logger = getLogger("purify_edge")

Array = NDArray[np.float32]
PLANS = 4  # batch sizes kept ready in a lane: a single image, full batches, and the rest of a folder or two
FLOAT_BYTES = 4
CLOSED = "the engine is closed; open the bundle again"


@dataclass(frozen=True)
class Stage:
    """An engine with one float32 input and one float32 output, and the shape of an image in each."""

    library: Library
    engine: "tensorrt.ICudaEngine"
    input_name: str
    output_name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    batch: tuple[int, int]

    @classmethod
    def of(cls, library: Library, engine: "tensorrt.ICudaEngine", source: str) -> "Stage":
        """Look at an engine.

        Raises:
            BundleError: it has other inputs and outputs.
        """
        trt = library.trt
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        floats = all(engine.get_tensor_dtype(name) == trt.DataType.FLOAT for name in names)
        if len(inputs) != 1 or len(outputs) != 1 or not floats:
            raise BundleError(f"{source} must have one float32 input and one float32 output; export the bundle again")
        least, _, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(inputs[0], 0))
        taken, given = (tuple(engine.get_tensor_shape(name))[1:] for name in (inputs[0], outputs[0]))
        return cls(library, engine, inputs[0], outputs[0], taken, given, (least[0], most[0]))

    @property
    def scratch_bytes(self) -> int:
        """Return the size of a context's scratch memory; never 0, for that cannot be allocated."""
        return max(1, int(getattr(self.engine, self.library.features.memory_size)))

    def context(self, size: int, buffers: Sequence[int], scratch: int) -> "tensorrt.IExecutionContext":
        """Return a context for one batch size, with the addresses of its input, output and scratch memory set."""
        title = self.library.title
        context = self._new_context()
        if context is None:
            raise DeviceError(f"{title} gives no execution context: the GPU's memory may be used up")
        if self.library.features.user_memory == "method":
            context.device_memory = scratch
        else:
            context.set_device_memory(scratch, self.scratch_bytes)
        if not context.set_input_shape(self.input_name, (size, *self.input_shape)):
            raise DeviceError(f"{title} refuses a batch of {size}")
        missing = context.infer_shapes()
        if missing:
            raise DeviceError(f"{title} does not know the shapes of {', '.join(missing)} for a batch of {size}")
        for name, address in zip((self.input_name, self.output_name), buffers, strict=True):
            if not context.set_tensor_address(name, address):
                raise DeviceError(f"{title} refuses the memory for {name}")
        return context

    def _new_context(self) -> "tensorrt.IExecutionContext | None":
        """Return a context whose scratch memory is ours."""
        how, trt = self.library.features.user_memory, self.library.trt
        if how == "method":
            return self.engine.create_execution_context_without_device_memory()
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if how == "strategy":
            return self.engine.create_execution_context(strategy)
        config = self.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        # Kernels for the very shape are compiled at once, not in the background: a captured graph would keep the others
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        return self.engine.create_execution_context(config)


class Executor:
    """Runs stages in a row, each one's output being the next one's input; any number of threads may call `run`."""

    def __init__(self, cuda: Cuda, stages: Sequence[Stage]) -> None:
        self._cuda, self._stages = cuda, tuple(stages)
        self._batch = (max(stage.batch[0] for stage in stages), min(stage.batch[1] for stage in stages))
        if self._batch[0] > self._batch[1]:
            raise BundleError(f"the engines have no batch size in common: {[stage.batch for stage in stages]}")
        self._idle: list[_Lane] = []
        self._busy, self._closed = 0, False
        self._changed = threading.Condition()

    def run(self, x: Array, *, outputs: Sequence[int] = (-1,)) -> list[Array]:
        """Return the outputs of the stages with these indices, for an input `[N, ...]` of any batch size.

        Raises:
            DeviceError: the GPU fails, or the executor is closed.
        """
        with self._lane() as lane:
            indices = [range(len(self._stages))[index] for index in outputs]
            results = [np.empty((len(x), *self._stages[index].output_shape), np.float32) for index in indices]
            most = self._batch[1]
            for start in range(0, len(x), most):
                part = x[start : start + most]
                for result, output in zip(results, lane.run(part, indices), strict=True):
                    result[start : start + len(part)] = output
        return results

    @contextmanager
    def _lane(self) -> Iterator["_Lane"]:
        with self._changed:
            if self._closed:
                raise DeviceError(CLOSED)
            self._busy += 1
            lane = self._idle.pop() if self._idle else None
        try:
            lane = lane or _Lane(self._cuda, self._stages, self._batch)
            try:
                yield lane
            except BaseException:  # its state is unknown: it is not used again
                lane.close()
                raise
            with self._changed:
                self._idle.append(lane)
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Wait for the runs under way, and free everything; the engines too, where nobody else holds them."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._busy)
        while self._idle:
            self._idle.pop().close()
        self._stages = ()


class _Lane:
    """A stream with its buffers and plans; for one thread at a time."""

    def __init__(self, cuda: Cuda, stages: Sequence[Stage], batch: tuple[int, int]) -> None:
        self._cuda, self._stages, self._batch = cuda, stages, batch
        self._plans: OrderedDict[int, _Plan] = OrderedDict()
        self._host: dict[int, Array] = {}
        self._sizes = [prod(shape) for shape in (stages[0].input_shape, *(stage.output_shape for stage in stages))]
        with ExitStack() as stack:
            self._stack = stack
            self._stream = cuda.create("cudaStreamCreateWithFlags", NON_BLOCKING)
            self._give_back("cudaStreamDestroy", self._stream)
            self._device = [self._malloc(size * batch[1] * FLOAT_BYTES) for size in self._sizes]
            self._scratch = self._malloc(max(stage.scratch_bytes for stage in stages))
            self._stack = stack.pop_all()

    def _give_back(self, function: str, handle: int) -> None:
        self._stack.callback(_quietly, self._cuda.call, function, handle)

    def _malloc(self, size_bytes: int) -> int:
        address = self._cuda.allocate("cudaMalloc", size_bytes)
        self._give_back("cudaFree", address)
        return address

    def _pinned(self, buffer: int) -> Array:
        """Return the page-locked twin of a buffer, `[batch, size]`; those that nobody reads are never made."""
        if buffer not in self._host:
            count = self._sizes[buffer] * self._batch[1]
            address = self._cuda.allocate("cudaHostAlloc", count * FLOAT_BYTES, 0)
            self._give_back("cudaFreeHost", address)
            self._host[buffer] = host_array(address, count).reshape(self._batch[1], -1)
        return self._host[buffer]

    def run(self, x: Array, outputs: Sequence[int]) -> list[Array]:
        """Return the outputs of these stages; views of the lane's memory, to be copied before its next run."""
        count = len(x)
        size = max(count, self._batch[0])
        source, targets = self._pinned(0), {index: self._pinned(index + 1) for index in outputs}
        source[:count] = x.reshape(count, -1)
        source[count:size] = 0  # the engine takes no fewer; what it makes of these is left out
        plan = self._plan(size)
        self._copy(self._device[0], source.ctypes.data, size * self._sizes[0], TO_DEVICE)
        plan.launch()
        for index, target in targets.items():
            self._copy(target.ctypes.data, self._device[index + 1], size * self._sizes[index + 1], TO_HOST)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        return [target[:count].reshape(count, *self._stages[index].output_shape) for index, target in targets.items()]

    def _copy(self, target: int, source: int, count: int, kind: int) -> None:
        self._cuda.call("cudaMemcpyAsync", target, source, count * FLOAT_BYTES, kind, self._stream)

    def _plan(self, size: int) -> "_Plan":
        if size not in self._plans:
            while len(self._plans) >= PLANS:
                self._plans.popitem(last=False)[1].close()
            contexts = [
                stage.context(size, self._device[index : index + 2], self._scratch)
                for index, stage in enumerate(self._stages)
            ]
            self._plans[size] = _Plan(self._cuda, self._stages[0].library, size, contexts, self._stream)
        self._plans.move_to_end(size)
        return self._plans[size]

    def close(self) -> None:
        """Free everything, in the reverse order of its making."""
        _quietly(self._cuda.call, "cudaStreamSynchronize", self._stream)
        while self._plans:
            self._plans.popitem()[1].close()
        self._host.clear()
        self._stack.close()


class _Plan:
    """One batch size: a context a stage, ready to run, and from the second run on the CUDA graph of them all."""

    def __init__(
        self, cuda: Cuda, library: Library, size: int, contexts: "list[tensorrt.IExecutionContext]", stream: int
    ) -> None:
        self._cuda, self._library, self._contexts, self._stream = cuda, library, contexts, stream
        self._size, self._runs = size, 0
        self._graph: int | None = None

    def launch(self) -> None:
        """Have the stages run, in the stream's turn.

        The first run goes without a graph: TensorRT finishes its preparations then, which cannot be captured.
        """
        if self._runs == 1:
            self._graph = self._capture()
        self._runs += 1
        if self._graph is not None:
            self._cuda.call("cudaGraphLaunch", self._graph, self._stream)
        else:
            self._enqueue()

    def _enqueue(self) -> None:
        if not all(context.execute_async_v3(self._stream) for context in self._contexts):
            raise DeviceError(f"{self._library.title} cannot run the engine for a batch of {self._size}")

    def _capture(self) -> int | None:
        """Return the graph, or None where a layer cannot be captured: then the contexts run as they are."""
        try:
            self._cuda.call("cudaStreamSynchronize", self._stream)
            asks = self._library.features.stream_capturable
            if asks and not all(context.is_stream_capturable(self._stream) for context in self._contexts):
                raise DeviceError("the engine says that it cannot be captured")
            self._cuda.begin_capture(self._stream)
            try:
                self._enqueue()
            except BaseException:  # what was recorded is not all
                _quietly(self._discard_capture)
                raise
            return self._cuda.end_capture(self._stream)
        except DeviceError as error:
            logger.info("no CUDA graph for a batch of %d: %s", self._size, error)
            return None

    def _discard_capture(self) -> None:
        self._cuda.call("cudaGraphExecDestroy", self._cuda.end_capture(self._stream))

    def close(self) -> None:
        """Give back the graph, then the contexts that it was captured from."""
        if self._graph is not None:
            _quietly(self._cuda.call, "cudaGraphExecDestroy", self._graph)
        self._graph = None
        self._contexts.clear()


def _quietly(call: Callable[..., None], *arguments: object) -> None:
    """Give something back, come what may: after a failure CUDA answers every call with that failure."""
    try:
        call(*arguments)
    except DeviceError as error:
        logger.debug("%s", error)
