"""An opened engine: one graph in TensorRT or TensorRT for RTX, on this machine's GPU."""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from purify_edge.engines.base import Array, CpuSettings, Engine, Pair, TensorSpec
from purify_edge.engines.tensorrt.build import BuiltEngine, build_engine
from purify_edge.engines.tensorrt.cudart import Cuda, open_cuda
from purify_edge.engines.tensorrt.execution import CLOSED, Executor, Stage
from purify_edge.engines.tensorrt.feedback import Log, logger_for
from purify_edge.engines.tensorrt.library import Builder, Library, is_installed, load_library
from purify_edge.engines.tensorrt.options import BuildOptions
from purify_edge.engines.tensorrt.store import EngineFiles
from purify_edge.errors import BuildError, DeviceError, MissingError

if TYPE_CHECKING:
    import tensorrt


def require_builder(builder: Builder) -> tuple[Library, Cuda]:
    """Return a builder's library, and the GPU to run its engines on.

    Raises:
        MissingError: one of the two is not here, or the library has nothing for this GPU.
    """
    try:
        cuda = open_cuda()
    except MissingError:
        if not is_installed(builder):
            load_library(builder)  # which tells how to get it
        raise  # without a GPU it is not loaded: that would take 100 MiB
    library = load_library(builder)
    known, here = library.compute_capabilities(), cuda.device
    if known and here.compute_capability not in known:
        raise MissingError(
            f"{library.title} runs on compute capability {', '.join(known)}; the {here.name} has "
            f"{here.compute_capability}: use --engine tensorrt or onnxruntime"
        )
    return library, cuda


def lossy_precisions() -> frozenset[str]:
    """Return the lossy precisions that may be faster than float32 here."""
    return frozenset({"fp16", "bf16", "int8"})


def is_engine_there(builder: Builder, files: EngineFiles) -> bool:
    """Return whether the model has an engine file that fits this GPU and may be loaded."""
    library, cuda = require_builder(builder)
    return files.find(files.bundle.read(files.model.file), library, cuda.device).engine is not None


class TrtEngine(Engine):
    """Run an engine from the bundle where one fits, else one built from the graph; see `Engine`.

    Args:
        graph: an ONNX model, verified.
        source: what messages call it.
        files: the bundle's engine files; None to build in memory, as float32.
        settings: not used on a GPU.

    Raises:
        MissingError, BuildError, BundleError: see `open_engine`; an engine that may not be built is missing.
    """

    builder: ClassVar[Builder]

    def __init__(
        self, graph: bytes, *, source: str, files: EngineFiles | None = None, settings: CpuSettings | None = None
    ) -> None:
        self._library, self._cuda = require_builder(self.builder)
        self._log = Log()
        self._logger = logger_for(self._library.trt, self._log)  # the runtime does not keep it alive
        self._runtime = self._new_runtime()
        stage = Stage.of(self._library, self._load(graph, source, files), source)
        self._stages = [stage]
        self._executor = Executor(self._cuda, self._stages)
        self.version = self._library.version
        self.device = f"cuda:0 ({self._cuda.device.name})"
        self.input_spec = TensorSpec(stage.input_name, "float32", (None, *stage.input_shape))
        self.output_spec = TensorSpec(stage.output_name, "float32", (None, *stage.output_shape))
        try:  # what cannot run shows now, while `auto` can still take another engine
            self.run(np.zeros((1, *stage.input_shape), np.float32))
        except BaseException:
            self.close()
            raise

    def _new_runtime(self) -> "tensorrt.Runtime":
        try:
            runtime: tensorrt.Runtime = self._library.trt.Runtime(self._logger)
        except Exception as error:  # pybind raises TypeError where CUDA cannot be initialised
            raise MissingError(
                f"{self._library.title} does not start here: {'; '.join(self._log.errors) or error}; "
                "purify-doctor tells whether driver, CUDA and TensorRT fit"
            ) from error
        return runtime

    def _load(self, graph: bytes, source: str, files: EngineFiles | None) -> "tensorrt.ICudaEngine":
        library, device = self._library, self._cuda.device
        if files is None:
            built = build_engine(
                graph, library=library, options=BuildOptions(), precision="fp32", source=source, device=device
            )
        else:
            found = files.find(graph, library, device)
            if found.engine:
                if engine := self._deserialize(found.engine):
                    return engine
                found = replace(found, reason=f"{library.title} cannot load the engine: {self._log.reason()}")
            built = files.build(graph, library, device, found)
        if engine := self._deserialize(built):
            return engine
        raise BuildError(f"{library.title} cannot load the engine that it built of {source}: {self._log.reason()}")

    def _deserialize(self, built: BuiltEngine) -> "tensorrt.ICudaEngine | None":
        """Return the engine; None where TensorRT refuses it. Only what is trusted comes here: it is executable code."""
        self._log.errors.clear()
        if built.fingerprint.flags.get("version_compatible") and self._library.features.compatible:
            self._runtime.engine_host_code_allowed = True  # it brings a runtime of its own
        engine: tensorrt.ICudaEngine | None = self._runtime.deserialize_cuda_engine(built.content)
        return engine

    def run(self, x: Array) -> Array:
        """See `Engine.run`; a GPU that fails and a closed engine raise DeviceError."""
        return self._executor.run(x)[0]

    def pair(self, classifier: Engine) -> Pair:
        """See `Engine.pair`: what goes from one engine to the other stays on the GPU."""
        if not (isinstance(classifier, TrtEngine) and classifier.builder == self.builder):
            return Pair(self, classifier)
        if not (self._stages and classifier._stages):
            raise DeviceError(CLOSED)
        return DevicePair(self, classifier, Executor(self._cuda, [*self._stages, *classifier._stages]))

    def close(self) -> None:
        """See `Closing.close`."""
        self._executor.close()
        self._stages.clear()  # the weights on the GPU go with the engine, and the engine with its last user


class DevicePair(Pair):
    """Run two engines in a row on the GPU: one upload, and a download for each requested output."""

    def __init__(self, purifier: TrtEngine, classifier: TrtEngine, executor: Executor) -> None:
        super().__init__(purifier, classifier)
        self._executor = executor

    def both(self, x: Array) -> tuple[Array, Array]:
        """See `Pair.both`."""
        purified, logits = self._executor.run(x, outputs=(0, 1))
        return purified, logits

    def scored(self, x: Array) -> tuple[Array, Array, Array]:
        """See `Pair.scored`; the purified images stay on the GPU for the classifier."""
        return *self.both(x), self.classify(x)

    def logits(self, x: Array) -> Array:
        """See `Pair.logits`."""
        return self._executor.run(x)[0]

    def close(self) -> None:
        """See `Closing.close`."""
        self._executor.close()
        super().close()
