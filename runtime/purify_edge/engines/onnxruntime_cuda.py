"""ONNX Runtime on an NVIDIA GPU, by its CUDA execution provider."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from purify_edge.engines.base import Array, CpuSettings, Engine, Pair
from purify_edge.engines.onnxruntime import OnnxRuntimeEngine, open_session, session_options, spec
from purify_edge.engines.tensorrt.store import EngineFiles
from purify_edge.errors import BuildError, BundleError, DeviceError, MissingError
from purify_edge.extras import require_library

T = TypeVar("T")
PROVIDER = "CUDAExecutionProvider"
GPU_ID = 0
CAPTURED_BATCHES = 4
"""For how many sizes of batch a CUDA graph is kept, each with buffers of its own; others run without one."""
NO_GRAPH = -1
CLOSED = "the engine is closed"
WITHOUT_CUDA = (
    "needs 'gpu': pip install 'purify-edge[gpu]' (the onnxruntime that is here has no "
    f"{PROVIDER}; pip uninstall onnxruntime first, the two share a folder)"
)


def require() -> Any:
    """Return ONNX Runtime with its CUDA provider, imported, and CUDA's libraries loaded.

    Raises:
        MissingError: it is not installed, or is the build without CUDA.
    """
    if _has_no_provider():  # found without the import, which takes time and memory
        raise MissingError(WITHOUT_CUDA)
    onnxruntime = require_library("onnxruntime", "gpu")
    if PROVIDER not in onnxruntime.get_available_providers():
        raise MissingError(WITHOUT_CUDA)
    if hasattr(onnxruntime, "preload_dlls"):  # CUDA's and cuDNN's libraries that pip installed
        onnxruntime.preload_dlls()
    return onnxruntime


def lossy_precisions() -> frozenset[str]:
    """Return the lossy precisions that may be faster than float32 here."""
    return frozenset({"fp16", "bf16", "int8"})


def _has_no_provider() -> bool:
    """Return whether the package that is installed has the library of shared providers, and not CUDA's beside it."""
    package = find_spec("onnxruntime")
    places = (package.submodule_search_locations if package else None) or ()
    names = [file.name for place in places for file in Path(place, "capi").glob("*onnxruntime_providers_*")]
    return any("_shared" in name for name in names) and not any("_cuda" in name for name in names)


class OnnxRuntimeCudaEngine(OnnxRuntimeEngine):
    """Run a graph in a session on the CUDA execution provider, with no fall-back to the CPU.

    Input and output stay at fixed addresses on the GPU, by I/O binding, so that a CUDA graph replays what was
    captured for a size of batch. It has no use for engine files.

    Raises:
        MissingError: onnxruntime-gpu is not installed, or there is no GPU that its CUDA provider works on.
        BuildError: the provider cannot run all of the graph.
    """

    name = "onnxruntime-cuda"
    provider: tuple[str, dict[str, str]] = (PROVIDER, {"device_id": str(GPU_ID), "enable_cuda_graph": "1"})
    settings = (("session.disable_cpu_ep_fallback", "1"),)
    memory = "cuda"

    def __init__(
        self, graph: bytes, *, source: str, files: EngineFiles | None = None, settings: CpuSettings | None = None
    ) -> None:
        onnxruntime = self._require()
        self.version = onnxruntime.__version__
        self.device = f"{self.memory}:{GPU_ID}"
        options = session_options(onnxruntime, settings or CpuSettings())
        for key, value in self.settings:
            options.add_session_config_entry(key, value)
        try:
            session = open_session(onnxruntime, graph, options, [self.provider], source)
        except BundleError as error:  # `auto` goes on to the CPU, which shows whether the graph is the cause
            raise BuildError(f"{self.provider[0]} cannot run {source}: {error.__cause__ or error}") from error
        if session.get_providers()[:1] != [self.provider[0]]:
            raise MissingError(
                f"{self.provider[0]} does not work here, ONNX Runtime fell back to "
                f"{', '.join(session.get_providers())}: purify-doctor tells why"
            )
        self.runtime, self._session, self.lock = onnxruntime, session, Lock()
        self.input_spec, self.output_spec = spec(session.get_inputs()[0]), spec(session.get_outputs()[0])
        self._kept: dict[int, Bound] = {}

    def _require(self) -> Any:
        return require()

    def bind(self, batch: int, *, source: Any = None, captured: int = NO_GRAPH) -> "Bound":
        """Return the session with buffers for so many images; `source` is a buffer on the GPU to read from.

        Raises:
            DeviceError: the engine is closed.
        """
        if self._session is None:
            raise DeviceError(CLOSED)
        return Bound(self, self._session, batch, source, captured)

    def run(self, x: Array) -> Array:
        """See `Engine.run`.

        Raises:
            DeviceError: the GPU fails, or the engine is closed.
        """
        with self.lock:
            bound = keep(self._kept, len(x), lambda graph: self.bind(len(x), captured=graph))
            bound.load(x)
            bound.run()
            return bound.result()

    def pair(self, classifier: Engine) -> Pair:
        """See `Engine.pair`: what goes from one to the other stays on the GPU."""
        return BoundPair(self, classifier) if isinstance(classifier, OnnxRuntimeCudaEngine) else Pair(self, classifier)

    def close(self) -> None:
        """See `Closing.close`."""
        self._kept.clear()
        self._session = None


class Bound:
    """Hold a session whose input and output lie at fixed addresses, for one size of batch.

    Attributes:
        output: the buffer that it writes, which another session may read.
    """

    def __init__(self, engine: OnnxRuntimeCudaEngine, session: Any, batch: int, source: Any, captured: int) -> None:
        value, memory = engine.runtime.OrtValue, engine.memory
        shapes = [[batch, *of.shape[1:]] for of in (engine.input_spec, engine.output_spec)]
        self._session = session
        self._input = source or value.ortvalue_from_shape_and_type(shapes[0], np.float32, memory, GPU_ID)
        self.output = value.ortvalue_from_shape_and_type(shapes[1], np.float32, memory, GPU_ID)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(engine.input_spec.name, self._input)
        self._binding.bind_ortvalue_output(engine.output_spec.name, self.output)
        self._options = engine.runtime.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(captured))

    def load(self, x: Array) -> None:
        """Copy images to where the session reads."""
        self._input.update_inplace(x)

    def run(self) -> None:
        """Run the session; it has written when this returns.

        Raises:
            DeviceError: the GPU fails.
        """
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            raise DeviceError(f"ONNX Runtime: {error}") from error

    def result(self) -> Array:
        """Return what the session wrote, copied to the host."""
        array: Array = self.output.numpy().copy()  # of a buffer in the host's memory, numpy() is only a view
        return array


class BoundPair(Pair):
    """Run two sessions in a row on the GPU: the classifier reads where the purifier wrote."""

    purifier: OnnxRuntimeCudaEngine
    classifier: OnnxRuntimeCudaEngine

    def __init__(self, purifier: OnnxRuntimeCudaEngine, classifier: OnnxRuntimeCudaEngine) -> None:
        super().__init__(purifier, classifier)
        self._kept: dict[int, tuple[Bound, Bound]] = {}

    def both(self, x: Array) -> tuple[Array, Array]:
        """See `Pair.both`."""
        with self.purifier.lock, self.classifier.lock:
            one, two = self._forward(x)
            return one.result(), two.result()

    def scored(self, x: Array) -> tuple[Array, Array, Array]:
        """See `Pair.scored`; the purified images stay on the GPU for the classifier."""
        return *self.both(x), self.classify(x)

    def logits(self, x: Array) -> Array:
        """See `Pair.logits`."""
        with self.purifier.lock, self.classifier.lock:
            return self._forward(x)[1].result()

    def _forward(self, x: Array) -> tuple[Bound, Bound]:
        one, two = keep(self._kept, len(x), lambda graph: self._bind(len(x), graph))
        one.load(x)
        one.run()
        two.run()
        return one, two

    def _bind(self, batch: int, graph: int) -> tuple[Bound, Bound]:
        captured = graph if graph == NO_GRAPH else graph + CAPTURED_BATCHES  # the engines' own are below
        one = self.purifier.bind(batch, captured=captured)
        return one, self.classifier.bind(batch, source=one.output, captured=captured)

    def close(self) -> None:
        """See `Closing.close`."""
        self._kept.clear()
        super().close()


def keep(kept: dict[int, T], batch: int, make: Callable[[int], T]) -> T:
    """Return what is kept for a size of batch; new ones get a CUDA graph's number while there are any left."""
    found = kept.get(batch)
    if found is not None:
        return found
    if len(kept) >= CAPTURED_BATCHES:
        return make(NO_GRAPH)
    return kept.setdefault(batch, make(len(kept) + 1))
