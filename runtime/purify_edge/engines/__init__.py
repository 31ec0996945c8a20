"""Engines: what runs one ONNX graph. Each lives in a module of its own and imports its library only when opened."""

import importlib
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from purify_edge.errors import BuildError, InputError, MissingError

if TYPE_CHECKING:
    from purify_edge.engines.tensorrt.store import EngineFiles

logger = logging.getLogger("purify_edge")

Array = NDArray[np.float32]
ByHand = Callable[[NDArray[np.uint8]], NDArray[np.int64]]
"""Images `[N, H, W, C]` to labels `[N]`."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of an engine's input or output; None stands for the batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class HostOptions:
    """How an engine on the CPU spends its cores; one on a GPU has no use for this.

    Attributes:
        threads: that work on one call; None for what the library takes, as many as there are cores.
        spinning: when ONNX Runtime's threads without work stay awake: within a `call`, or `never`. Its own default,
            after a call too, takes the cores from the next engine in the chain. OpenVINO's always sleep.
        side_by_side: how many calls are to run at once.
        pinned: whether OpenVINO's threads stay on one core each. Two that it wakes on one core may stay there, and take
            half as long again; pinned, they wait for whoever else uses theirs. ONNX Runtime decides that for itself.
    """

    threads: int | None = None
    spinning: Literal["call", "never"] = "call"
    side_by_side: int = 1
    pinned: bool = False


class Engine(Protocol):
    """Runs one graph, on batches of any size.

    Attributes:
        name: its key in ENGINES.
        version: of its library.
        device: where it really runs, `cpu` or `cuda:0`, say.
    """

    name: str
    version: str
    device: str
    input_spec: TensorSpec
    output_spec: TensorSpec

    def run(self, x: Array) -> Array:
        """The graph's output for a contiguous input of the input spec's shape."""

    def then(self, other: "Engine") -> "Chain":
        """The two in a row: this engine's output is the other's input. To be closed before either."""

    def close(self) -> None:
        """Free what the engine holds; it cannot run any more."""

    def __enter__(self) -> "Engine":
        """The engine itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""


class Chain(Protocol):
    """Two engines in a row."""

    def run(self, x: Array) -> tuple[Array, Array]:
        """The outputs of the first and of the second."""

    def last(self, x: Array) -> Array:
        """The second's output alone, which may be faster."""

    def close(self) -> None:
        """Free what the chain holds beside the engines."""


@dataclass(frozen=True)
class HostChain:
    """Two engines in a row, by way of numpy."""

    first: Engine
    second: Engine

    def run(self, x: Array) -> tuple[Array, Array]:
        """See `Chain.run`."""
        between = self.first.run(x)
        return between, self.second.run(between)

    def last(self, x: Array) -> Array:
        """See `Chain.last`."""
        return self.run(x)[1]

    def close(self) -> None:
        """Nothing to free."""


ENGINES: dict[str, str] = {
    "tensorrt": "purify_edge.engines.tensorrt.tensorrt:TensorRTEngine",
    "rtx": "purify_edge.engines.tensorrt.rtx:RtxEngine",
    "onnxruntime-cuda": "purify_edge.engines.onnxruntime_cuda:OnnxRuntimeCudaEngine",
    "onnxruntime": "purify_edge.engines.onnxruntime:OnnxRuntimeEngine",
    "openvino": "purify_edge.engines.openvino:OpenVinoEngine",
}
"""Engine name -> `module:class`, GPUs first; the class takes an ONNX graph's bytes, a name for messages, the bundle's
engine files and the host options. Which of those on the CPU is faster depends on the graph and the machine: see
`purify_edge.engines.tune`.

The module also has `require()`, which returns its library or raises MissingError.
"""


ON_CPU = ("onnxruntime", "openvino")
"""Those of ENGINES that run on the CPU."""


def open_engine(
    name: str,
    graph: bytes,
    *,
    source: str,
    files: "EngineFiles | None" = None,
    host: HostOptions | None = None,
    without: Collection[str] = (),
) -> Engine:
    """Open an engine by name, or for `auto` the first of ENGINES that really loads the graph here.

    Args:
        name: `auto`, or a key of ENGINES.
        graph: an ONNX model, verified.
        source: what errors call it.
        files: the bundle's engine files of the model, for engines that have such.
        host: how to spend the CPU's cores; None for the defaults.
        without: engines that `auto` does not take.

    Raises:
        InputError: no engine of this name.
        MissingError: its library is not installed or does not work here; for `auto`, that goes for every engine.
        BuildError: an engine cannot be built of the graph; `auto` then takes another.
        BundleError: the graph cannot be loaded.
    """
    if name != "auto":
        return _engine_class(name)(graph, source=source, files=files, host=host)
    reasons: list[str] = []
    for candidate in (candidate for candidate in ENGINES if candidate not in without):
        try:
            engine = _engine_class(candidate)(graph, source=source, files=files, host=host)
        except (MissingError, BuildError) as error:
            reasons.append(f"{candidate} {error}")
            continue
        why = f"; not {'; '.join(reasons)}" if reasons else ""
        logger.info("%s: engine %s on %s, the first that works here%s", source, candidate, engine.device, why)
        return engine
    where = "on a GPU here" if set(ON_CPU) <= set(without) else "here"
    raise MissingError(": ".join([f"no engine works {where}", *filter(None, ["; ".join(reasons)])]))


def require_engine() -> None:
    """See that at least one engine's library is here, before long work that ends with opening an engine.

    Raises:
        MissingError: none is.
    """
    reasons: list[str] = []
    for name in ENGINES:
        try:
            _module(name).require()
        except MissingError as error:
            reasons.append(f"{name} {error}")
        else:
            return
    raise MissingError("no engine works here: " + "; ".join(reasons))


def by_hand(name: str, graphs: Sequence[bytes]) -> dict[str, ByHand]:
    """What one would write by hand with a library's defaults, to be compared with.

    Args:
        name: one of ON_CPU.
        graphs: one, or several in a row.

    Returns:
        Calls by name; those that compute in another precision than the graph's are named `... in PRECISION`.

    Raises:
        MissingError: the library is not here.
    """
    calls: dict[str, ByHand] = _module(name).by_hand(graphs)
    return calls


def is_here(name: str) -> bool:
    """Whether an engine's library is here and works."""
    try:
        _module(name).require()
    except MissingError:
        return False
    return True


def _module(name: str) -> Any:
    return importlib.import_module(ENGINES[name].partition(":")[0])


def _engine_class(name: str) -> Callable[..., Engine]:
    if name not in ENGINES:
        raise InputError(f"no engine {name!r}; known: auto, {', '.join(ENGINES)}")
    engine: Callable[..., Engine] = getattr(_module(name), ENGINES[name].partition(":")[2])
    return engine
