"""The models of a bundle, opened in one engine."""

from dataclasses import dataclass
from threading import RLock

from purify_edge.bundle.reader import Bundle
from purify_edge.engines.base import Array, Closing, Cores, CpuSettings, Engine, Pair
from purify_edge.engines.registry import engine_row, open_engine
from purify_edge.engines.tensorrt.store import EngineFiles, EnginePolicy
from purify_edge.errors import BundleError, InputError
from purify_edge.machine import return_memory

WORDS = {"tied": "threads tied to cores", "awake": "threads awake", "one": "one thread"}


@dataclass(frozen=True)
class Setup:
    """One way to run a bundle.

    Attributes:
        engine: a key of ENGINES.
        precision: in which the models are computed: fp32, fp16, bf16 or int8.
        graphs: the precision of the graphs that are run; fp32 with a precision of bf16 means that the engine computes
            float32 graphs in bfloat16.
        cores: see `CpuSettings`.
    """

    engine: str
    precision: str
    graphs: str
    cores: Cores = "free"

    @property
    def settings(self) -> CpuSettings:
        """Return the settings that the engine gets."""
        return CpuSettings(self.cores, "bf16" if self.precision == "bf16" and self.graphs == "fp32" else "fp32")

    @property
    def is_composed(self) -> bool:
        """Return whether logits alone come from one graph of both networks; on a GPU a chain is as fast."""
        return engine_row(self.engine).device == "cpu"

    def __str__(self) -> str:
        return f"{self.engine} in {self.precision}" + ("" if self.cores == "free" else f", {WORDS[self.cores]}")


class Models(Closing):
    """A bundle's models, run one way. Each is verified and opened when it is first needed."""

    def __init__(self, bundle: Bundle, setup: Setup, policy: EnginePolicy | None = None) -> None:
        self.setup = setup
        self._bundle, self._policy = bundle, policy
        self._lock = RLock()
        self._engines: dict[str, Engine] = {}
        self._pair: Pair | None = None
        self._closed = False

    def engine(self, role: str) -> Engine:
        """Return the engine of a role: purifier, classifier or defended.

        Raises:
            InputError: the models are closed.
            BundleError, MissingError, BuildError: see `open_model`.
        """
        with self._lock:
            if self._closed:
                raise InputError("the pipeline is closed; load the bundle again")
            if role not in self._engines:
                self._engines[role] = open_model(self._bundle, role, self.setup, self._policy)
            return self._engines[role]

    @property
    def pair(self) -> Pair:
        """Return purifier and classifier, chained; see `engine` for the errors."""
        return self._pair or self.open_pair()

    def open_pair(self) -> Pair:
        """Open purifier and classifier, and return them; see `engine` for the errors."""
        with self._lock:
            self._pair = self._pair or self.engine("purifier").pair(self.engine("classifier"))
            return self._pair

    def open_for(self, kind: str) -> None:
        """Open what a kind of call needs, `logits` or another; see `engine` for the errors."""
        if kind == "logits" and self.setup.is_composed:
            self.engine("defended")
        else:
            self.open_pair()

    def purify(self, x: Array) -> Array:
        """Return the purified images `[N, C, H, W]`."""
        return self.pair.purify(x)

    def classify(self, x: Array) -> Array:
        """Return the logits `[N, K]` of images that are not purified."""
        return self.pair.classify(x)

    def both(self, x: Array) -> tuple[Array, Array]:
        """Return the purified images `[N, C, H, W]` and their logits `[N, K]`."""
        return self.pair.both(x)

    def scored(self, x: Array) -> tuple[Array, Array, Array]:
        """Return what `both` does, and the logits of the images as they are."""
        return self.pair.scored(x)

    def logits(self, x: Array) -> Array:
        """Return the logits `[N, K]` of the purified images."""
        return self.engine("defended").run(x) if self.setup.is_composed else self.pair.logits(x)

    def close(self) -> None:
        """Close every engine."""
        with self._lock:
            self._closed = True
            if self._pair:
                self._pair.close()
            while self._engines:
                self._engines.popitem()[1].close()
            self._pair = None


def open_model(bundle: Bundle, role: str, setup: Setup, policy: EnginePolicy | None = None) -> Engine:
    """Open an engine with a model of the bundle, verified.

    Raises:
        BundleError: the model is damaged or not there, or its input or output is not what the manifest says.
        InputError, MissingError, BuildError: see `open_engine`.
    """
    files = engine_files(bundle, role, setup, policy)
    source = files.model.file.path
    graph = bundle.read(files.model.file)
    opened = open_engine(setup.engine, graph, source=source, files=files, settings=setup.settings)
    return_memory()
    contract = bundle.manifest.input
    image = (None, contract.channels, contract.height, contract.width)
    logits = (None, len(bundle.manifest.class_names))
    expected = [("float32", image), ("float32", image if role == "purifier" else logits)]
    found = [(spec.dtype, spec.shape) for spec in (opened.input_spec, opened.output_spec)]
    if found != expected:
        opened.close()
        raise BundleError(f"{source} takes and gives {found}, the manifest says {expected}; export the bundle again")
    return opened


def engine_files(bundle: Bundle, role: str, setup: Setup, policy: EnginePolicy | None = None) -> EngineFiles:
    """Return the engine files of a model.

    Raises:
        BundleError: the bundle does not have the model.
    """
    return EngineFiles(bundle=bundle, model=bundle.model(role, setup.graphs), policy=policy or EnginePolicy())
