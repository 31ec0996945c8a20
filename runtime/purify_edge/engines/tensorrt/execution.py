"""Execution: one or more engines in a row on the GPU, each one's output buffer being the next one's input.

A *lane* is what one thread needs at a time: a stream, buffers, and a *plan* for each batch size. A plan is an
execution context an engine, with shapes and addresses set once, and what they do as a CUDA graph. TensorRT wants a
context of its own for each captured graph; all contexts of a lane share one scratch memory, for they run in turn.
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

from purify_edge.engines.tensorrt.cudart import TO_DEVICE, TO_HOST, Cuda, host_array
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
        return cls(engine, inputs[0], outputs[0], taken, given, (least[0], most[0]))


class Executor:
    """Runs stages in a row. Any number of threads may call `run`; each has a lane while it does.

    Args:
        library: that the engines are of.
        cuda: the GPU.
        stages: in their order; each one's output has the shape of the next one's input.
    """

    def __init__(self, library: Library, cuda: Cuda, stages: Sequence[Stage]) -> None:
        self._library, self._cuda, self._stages = library, cuda, tuple(stages)
        self._batch = (max(stage.batch[0] for stage in stages), min(stage.batch[1] for stage in stages))
        if self._batch[0] > self._batch[1]:
            raise BundleError(f"the engines have no batch size in common: {[stage.batch for stage in stages]}")
        self._idle: list[_Lane] = []
        self._busy, self._closed = 0, False
        self._changed = threading.Condition()

    def run(self, x: Array, *, outputs: Sequence[int] = (-1,)) -> list[Array]:
        """Return the outputs of the stages asked for, for an input of any batch size.

        Args:
            x: `[N, ...]`.
            outputs: indices of stages; the others' outputs stay on the GPU.

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
            lane = lane or _Lane(self._library, self._cuda, self._stages, self._batch)
            try:
                yield lane
            except BaseException:  # whatever state it is in, it is not used again
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
            lanes, self._idle = self._idle, []
        for lane in lanes:
            lane.close()
        self._stages = ()


class _Lane:
    """A stream with its buffers and plans; for one thread at a time."""

    def __init__(self, library: Library, cuda: Cuda, stages: Sequence[Stage], batch: tuple[int, int]) -> None:
        self._library, self._cuda, self._stages, self._batch = library, cuda, stages, batch
        self._plans: OrderedDict[int, _Plan] = OrderedDict()
        shapes = [stages[0].input_shape, *(stage.output_shape for stage in stages)]
        self._sizes = [prod(shape) for shape in shapes]
        with ExitStack() as stack:
            self._stream = cuda.stream()
            stack.callback(_quietly, cuda.destroy_stream, self._stream)
            self._device = [self._malloc(stack, size * batch[1] * FLOAT_BYTES) for size in self._sizes]
            self._scratch = self._malloc(stack, max(1, *(_scratch_bytes(library, stage) for stage in stages)))
            self._host: dict[int, Array] = {}
            self._stack = stack.pop_all()

    def _malloc(self, stack: ExitStack, size_bytes: int) -> int:
        address = self._cuda.malloc(size_bytes)
        stack.callback(_quietly, self._cuda.free, address)
        return address

    def _pinned(self, buffer: int) -> Array:
        """Return the page-locked twin of a buffer, `[batch, size]`; those that nobody reads are never made."""
        if buffer not in self._host:
            count = self._sizes[buffer] * self._batch[1]
            address = self._cuda.host_alloc(count * FLOAT_BYTES)
            self._stack.callback(_quietly, self._cuda.free_host, address)
            self._host[buffer] = host_array(address, count).reshape(self._batch[1], -1)
        return self._host[buffer]

    def run(self, x: Array, outputs: Sequence[int]) -> list[Array]:
        """Return the outputs of these stages; views of the lane's memory, to be copied before its next run."""
        count = len(x)
        size = max(count, self._batch[0])
        source, targets = self._pinned(0), [self._pinned(index + 1) for index in outputs]
        source[:count] = x.reshape(count, -1)
        source[count:size] = 0  # the engine takes no fewer; what it makes of these is left out
        plan = self._plan(size)
        self._copy(0, source, size, TO_DEVICE)
        plan.launch()
        for index, target in zip(outputs, targets, strict=True):
            self._copy(index + 1, target, size, TO_HOST)
        self._cuda.synchronize(self._stream)
        return [
            target[:count].reshape(count, *self._stages[index].output_shape)
            for index, target in zip(outputs, targets, strict=True)
        ]

    def _copy(self, buffer: int, host: Array, size: int, kind: int) -> None:
        addresses = (self._device[buffer], host.ctypes.data)
        target, source = addresses if kind == TO_DEVICE else addresses[::-1]
        self._cuda.copy(target, source, size * self._sizes[buffer] * FLOAT_BYTES, kind, self._stream)

    def _plan(self, size: int) -> "_Plan":
        if size in self._plans:
            self._plans.move_to_end(size)
        else:
            while len(self._plans) >= PLANS:
                self._plans.popitem(last=False)[1].close()
            self._plans[size] = _Plan(
                self._library, self._cuda, self._stages, size, self._device, self._scratch, self._stream
            )
        return self._plans[size]

    def close(self) -> None:
        """Free everything, in the reverse order of its making."""
        _quietly(self._cuda.synchronize, self._stream)
        for plan in self._plans.values():
            plan.close()
        self._plans.clear()
        self._host.clear()
        self._stack.close()


class _Plan:
    """One batch size: a context a stage, ready to run, and from the second run on the CUDA graph of them all."""

    def __init__(
        self,
        library: Library,
        cuda: Cuda,
        stages: Sequence[Stage],
        size: int,
        buffers: Sequence[int],
        scratch: int,
        stream: int,
    ) -> None:
        self._library, self._cuda, self._stream = library, cuda, stream
        self._contexts = [
            _context(library, stage, size, buffers[index : index + 2], scratch) for index, stage in enumerate(stages)
        ]
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
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue()

    def _enqueue(self) -> None:
        for context in self._contexts:
            if not context.execute_async_v3(self._stream):
                raise DeviceError(f"{self._library.title} cannot run the engine for a batch of {self._size}")

    def _capture(self) -> int | None:
        """Return the graph, or None where a layer cannot be captured: then the contexts run as they are."""
        try:
            self._cuda.synchronize(self._stream)
            if self._library.features.stream_capturable:
                for context in self._contexts:
                    if not context.is_stream_capturable(self._stream):
                        raise DeviceError("the engine says that it cannot be captured")
            self._cuda.begin_capture(self._stream)
            try:
                self._enqueue()
            except BaseException:  # what was recorded is not all
                _quietly(self._discard_capture, self._stream)
                raise
            graph = self._cuda.end_capture(self._stream)
        except DeviceError as error:
            logger.info("no CUDA graph for a batch of %d: %s", self._size, error)
            return None
        return graph

    def _discard_capture(self, stream: int) -> None:
        self._cuda.destroy_graph(self._cuda.end_capture(stream))

    def close(self) -> None:
        """Give back the graph, then the contexts that it was captured from."""
        if self._graph is not None:
            _quietly(self._cuda.destroy_graph, self._graph)
        self._graph = None
        self._contexts.clear()


def _context(
    library: Library, stage: Stage, size: int, buffers: Sequence[int], scratch: int
) -> "tensorrt.IExecutionContext":
    context = _new_context(library, stage.engine)
    if context is None:
        raise DeviceError(f"{library.title} gives no execution context: the GPU's memory may be used up")
    if library.features.user_memory == "method":
        context.device_memory = scratch
    else:
        context.set_device_memory(scratch, max(1, _scratch_bytes(library, stage)))
    if not context.set_input_shape(stage.input_name, (size, *stage.input_shape)):
        raise DeviceError(f"{library.title} refuses a batch of {size}")
    missing = context.infer_shapes()
    if missing:
        raise DeviceError(f"{library.title} does not know the shapes of {', '.join(missing)} for a batch of {size}")
    for name, address in zip((stage.input_name, stage.output_name), buffers, strict=True):
        if not context.set_tensor_address(name, address):
            raise DeviceError(f"{library.title} refuses the memory for {name}")
    return context


def _new_context(library: Library, engine: "tensorrt.ICudaEngine") -> "tensorrt.IExecutionContext | None":
    """Return a context whose scratch memory is ours."""
    how, trt = library.features.user_memory, library.trt
    if how == "method":
        return engine.create_execution_context_without_device_memory()
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if how == "strategy":
        return engine.create_execution_context(strategy)
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategy)
    # Kernels for the very shape are compiled at once, not in the background: a captured graph would keep the others.
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(config)


def _scratch_bytes(library: Library, stage: Stage) -> int:
    return int(getattr(stage.engine, library.features.memory_size))


def _quietly(free: Callable[[int], None], handle: int) -> None:
    """Give something back, come what may: after a failure CUDA answers every call with that failure."""
    try:
        free(handle)
    except DeviceError as error:
        logger.debug("%s", error)
