"""What every engine and every pair of engines has in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Self = TypeVar("Self", bound="Closing")
BATCH = 64
"""Images that run together at most; a larger batch is run in parts."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of an engine's input or output; None stands for the batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


Cores = Literal["free", "tied", "awake", "one"]
"""How an engine uses the cores of a CPU: `free`, a thread a core, which the system may move; `tied`, each thread on a
core of its own, which is faster while nobody else uses it; `awake`, tied and not asleep between calls; `one` thread."""


@dataclass(frozen=True)
class CpuSettings:
    """How an engine computes on a CPU; an engine on a GPU ignores this.

    Attributes:
        cores: how it uses the cores.
        compute: the arithmetic for what the graph holds in float32. Only OpenVINO knows `bf16`.
    """

    cores: Cores = "free"
    compute: Literal["fp32", "bf16"] = "fp32"


class Closing(ABC):
    """A context manager that closes itself."""

    @abstractmethod
    def close(self) -> None:
        """Free what this holds; it cannot run any more."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Engine(Closing):
    """Run one graph, on batches of any size.

    A subclass takes an ONNX graph's bytes and, by keyword, `source` (what messages call the graph), `files` (the
    bundle's engine files, or None) and `settings` (`CpuSettings`, or None for the defaults).

    Attributes:
        name: its key in `registry.ENGINES`.
        version: the version of its library.
        device: where it really runs, such as `cpu` or `cuda:0`.
        input_spec, output_spec: what the graph takes and gives.
    """

    name: str
    version: str
    device: str
    input_spec: TensorSpec
    output_spec: TensorSpec

    @abstractmethod
    def run(self, x: Array) -> Array:
        """Return the graph's output for a contiguous input of the input spec's shape."""

    def pair(self, classifier: "Engine") -> "Pair":
        """Return this engine, which has a purifier, chained to one that has a classifier; the pair owns both."""
        return Pair(self, classifier)


class Pair(Closing):
    """A purifier and a classifier in a row; here by way of numpy. Closing it closes both."""

    def __init__(self, purifier: Engine, classifier: Engine) -> None:
        self.purifier, self.classifier = purifier, classifier

    def purify(self, x: Array) -> Array:
        """Return the purified images `[N, C, H, W]`."""
        return self.purifier.run(x)

    def classify(self, x: Array) -> Array:
        """Return the classifier's logits `[N, K]` for images as they are, not purified."""
        return self.classifier.run(x)

    def both(self, x: Array) -> tuple[Array, Array]:
        """Return the purified images `[N, C, H, W]` and their logits `[N, K]`."""
        purified = self.purifier.run(x)
        return purified, self.classifier.run(purified)

    def logits(self, x: Array) -> Array:
        """Return the logits `[N, K]` of the purified images, which then need not be brought back."""
        return self.both(x)[1]

    def scored(self, x: Array) -> tuple[Array, Array, Array]:
        """Return what `both` does, and the logits of the images as they are; here by one call of the classifier."""
        purified = self.purify(x)
        logits = self.classify(np.concatenate((purified, x)))
        return purified, logits[: len(x)], logits[len(x) :]

    def close(self) -> None:
        """Close both engines."""
        self.purifier.close()
        self.classifier.close()


def in_batches(run: Callable[[Array], Array], x: Array, *, batch: int = BATCH) -> Array:
    """Run any number of images, at most so many of them at once."""
    if len(x) <= batch:
        return run(x)
    return np.concatenate([run(x[start : start + batch]) for start in range(0, len(x), batch)])
