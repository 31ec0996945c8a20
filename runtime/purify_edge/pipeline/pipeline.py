"""The pipeline: purifier, then classifier, as run on a device."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.manifest import Manifest
from purify_edge.bundle.reader import Bundle
from purify_edge.engines import ON_CPU, Chain, Engine, HostOptions, open_engine
from purify_edge.engines.tensorrt.store import EngineFiles, EnginePolicy
from purify_edge.errors import BuildError, BundleError, InputError, MissingError
from purify_edge.images.arrays import as_batch
from purify_edge.machine import return_memory
from purify_edge.pipeline.prediction import Prediction
from purify_edge.pipeline.suspicion import is_suspicious, suspicion_of

logger = logging.getLogger("purify_edge")

BATCH = 64


OnAlert = Callable[[Prediction], object]


class Pipeline:
    """Purifier and classifier of a bundle, each in an engine. A context manager.

    Images are float `[N, C, H, W]` in [0, 1], or uint8 `[N, H, W, C]`, of the bundle's C, H and W; any N >= 1.
    """

    def __init__(
        self,
        manifest: Manifest,
        purifier: Engine,
        classifier: Engine,
        *,
        suspicion: bool = True,
        on_alert: OnAlert | None = None,
    ) -> None:
        self.input = manifest.input
        self.class_names = manifest.class_names
        self.engine, self.device = purifier.name, purifier.device
        self.suspicion = manifest.suspicion if suspicion else None
        self._on_alert = on_alert
        self._purifier, self._classifier = purifier, classifier
        self._chain = purifier.then(classifier)

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        *,
        engine: str = "auto",
        precision: str = "fp32",
        verify: Path | None = None,
        policy: EnginePolicy | None = None,
        allow_failed: bool = False,
        suspicion: bool = True,
        on_alert: OnAlert | None = None,
    ) -> "Pipeline":
        """Open a bundle; every file is verified against its manifest before it is used.

        Args:
            bundle: a folder that `purify-export` wrote.
            engine: `auto`, a GPU's engine where one works, else what was tuned for this CPU; or a key of
                `purify_edge.engines.ENGINES`.
            precision: of the graphs; on a CPU fp32, but for int8 and bf16 with OpenVINO.
            verify: a public key, whose owner must have signed the bundle.
            policy: what may be done about engine files; None for the defaults.
            allow_failed: take even a bundle that broke a limit when it was exported.
            suspicion: score every image; it costs a run of the classifier on the unpurified image.
            on_alert: called with a prediction that holds a suspicious image, once a call of `predict`, in its thread.

        Raises:
            BundleError: the bundle is incomplete, damaged, marked as failed or not what was signed, or has no such
                precision.
            InputError: no engine of this name; `on_alert` without a suspicion score.
            MissingError: the engine cannot be had here.
            BuildError: the engine cannot be built of the bundle's graphs.
        """
        opened = Bundle.open(bundle, verify=verify, allow_failed=allow_failed)
        if on_alert and not (suspicion and opened.manifest.suspicion):
            why = f"{bundle} has no threshold for it: export it again" if suspicion else "leave suspicion=False out"
            raise InputError(f"alerts need the suspicion score; {why}")
        with ExitStack() as stack:
            purifier, classifier = map(stack.enter_context, _open_pair(opened, precision, engine, policy))
            pipeline = cls(opened.manifest, purifier, classifier, suspicion=suspicion, on_alert=on_alert)
            stack.pop_all()
        return pipeline

    @property
    def settings(self) -> str:
        """What runs the images, in words."""
        told: str = getattr(self._purifier, "settings", f"{self._purifier.name}, chained")
        return told

    @property
    def chain(self) -> Chain:
        """Purifier and classifier in a row, for who has images as `as_batch` makes them."""
        return self._chain

    def purify(self, images: NDArray[np.generic]) -> NDArray[np.float32]:
        """The purified images, float32 `[N, C, H, W]` in [0, 1].

        Raises:
            InputError: the images are not as the class says.
        """
        return in_batches(self._purifier.run, as_batch(images, self.input))

    def predict(self, images: NDArray[np.generic]) -> Prediction:
        """Purify, then classify, and score the change; see `on_alert` of `load` for what is called then.

        Raises:
            InputError: the images are not as the class says.
        """
        x = as_batch(images, self.input)
        purified, logits = self._purified_and_logits(x)
        probabilities = softmax(logits)
        prediction = Prediction(probabilities.argmax(axis=1), probabilities, purified)
        return self._scored(prediction, x, logits) if self.suspicion else prediction

    def _scored(self, prediction: Prediction, x: NDArray[np.float32], logits: NDArray[np.float32]) -> Prediction:
        assert self.suspicion is not None
        unpurified = in_batches(self._classifier.run, x)
        scores = suspicion_of(unpurified, logits)
        suspicious = is_suspicious(scores, self.suspicion.threshold)
        prediction = replace(prediction, unpurified=softmax(unpurified), suspicion=scores, suspicious=suspicious)
        if self._on_alert and suspicious.any():
            self._on_alert(prediction)
        return prediction

    def _purified_and_logits(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if len(x) <= BATCH:
            return self._chain.run(x)
        parts = [self._chain.run(x[start : start + BATCH]) for start in range(0, len(x), BATCH)]
        purified, logits = (np.concatenate(outputs) for outputs in zip(*parts, strict=True))
        return purified, logits

    def labels(self, images: NDArray[np.generic]) -> NDArray[np.int64]:
        """The labels `[N]` of `predict` alone: by the composed graph where that is faster, and with no score.

        Raises:
            InputError: the images are not as the class says.
        """
        labels: NDArray[np.int64] = in_batches(self._chain.last, as_batch(images, self.input)).argmax(axis=1)
        return labels

    def probabilities(self, images: NDArray[np.generic]) -> NDArray[np.float32]:
        """The probabilities `[N, K]` of `predict` alone: on a GPU the purified images are not brought back.

        Raises:
            InputError: the images are not as the class says.
        """
        return softmax(in_batches(self._chain.last, as_batch(images, self.input)))

    def classify(self, images: NDArray[np.generic]) -> NDArray[np.float32]:
        """The classifier's probabilities `[N, K]` for the images as they are, *not* purified; for comparison.

        Raises:
            InputError: the images are not as the class says.
        """
        return softmax(in_batches(self._classifier.run, as_batch(images, self.input)))

    def stream(
        self, images: Iterable[NDArray[np.generic]], *, batch: int = BATCH, live: bool = False
    ) -> Iterator[Prediction]:
        """Predictions of single images, in their order, as an iterable gives them; run in batches under the hood.

        A thread asks the iterable for images while the engine runs, never for more than two batches ahead, and for none
        before the first prediction is asked for. Several streams may share a pipeline. Close the iterator, or use it
        up, before the pipeline is closed.

        Args:
            images: uint8 `[H, W, C]` or float `[C, H, W]` in [0, 1]; iterated in a thread of its own.
            batch: images that run together.
            live: run what is there rather than wait for a whole batch, for cameras and the like.

        Raises:
            InputError: an image is not as the class says, after the predictions of those before it.
        """
        from purify_edge.pipeline.stream import stream

        return stream(self.predict, images, self.input, batch=batch, live=live)

    def close(self) -> None:
        """Free the engines; whatever is asked of the pipeline after that is an InputError."""
        self._chain.close()
        self._purifier.close()
        self._classifier.close()
        closed: Any = _Closed()
        self._chain = self._purifier = self._classifier = closed

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_pair(bundle: Bundle, precision: str, engine: str, policy: EnginePolicy | None) -> tuple[Engine, Engine]:
    """Purifier and classifier; where `auto` finds no GPU, as they were tuned for the CPU."""
    roles = ("purifier", "classifier")
    if engine != "auto":
        purifier, classifier = open_models(bundle, roles, precision, engine, policy)
        return purifier, classifier
    try:
        purifier, classifier = open_models(bundle, roles, precision, engine, policy, without=ON_CPU)
    except MissingError as error:
        logger.info("%s", error)
    else:
        return purifier, classifier
    from purify_edge.pipeline.tuned import open_tuned

    return open_tuned(bundle, precision)


def open_models(
    bundle: Bundle,
    roles: Sequence[str],
    precision: str,
    engine: str,
    policy: EnginePolicy | None = None,
    *,
    without: Collection[str] = (),
) -> list[Engine]:
    """Models in one engine; for `auto` in the first of ENGINES that takes them all.

    An engine may take one and not the other: TensorRT for RTX has no float32 matrix products for compute capability
    7.5, and ONNX Runtime runs a bfloat16 purifier whose layers all stayed in float32.

    Args:
        bundle, precision, engine, policy: see `open_model`.
        roles: of the models, in their order.
        without: engines that `auto` does not take.

    Raises:
        BundleError, InputError, MissingError, BuildError: see `open_model`.
    """
    while True:
        with ExitStack() as stack:
            opened = [stack.enter_context(open_model(bundle, roles[0], precision, engine, policy, without=without))]
            name = opened[0].name
            try:
                for role in roles[1:]:
                    opened.append(stack.enter_context(open_model(bundle, role, precision, name, policy)))
            except (BuildError, MissingError) as error:
                if engine != "auto":
                    raise
                logger.info("engine %s does not take all of the models: %s", name, error)
                without = (*without, name)
                continue
            stack.pop_all()
            return opened


def open_model(
    bundle: Bundle,
    role: str,
    precision: str,
    engine: str,
    policy: EnginePolicy | None = None,
    host: HostOptions | None = None,
    without: Collection[str] = (),
) -> Engine:
    """An engine with a model of the bundle, verified.

    Raises:
        BundleError: damaged, no such model, or its input or output is not what the manifest says.
        InputError, MissingError, BuildError: see `open_engine`.
    """
    entry = bundle.model(role, precision)
    source, files = entry.file.path, EngineFiles(bundle=bundle, model=entry, policy=policy or EnginePolicy())
    opened = open_engine(engine, bundle.read(entry.file), source=source, files=files, host=host, without=without)
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


class _Closed:
    """Stands where engines were."""

    def close(self) -> None:
        """Nothing is left to free."""

    def __getattr__(self, name: str) -> Any:
        raise InputError("the pipeline is closed; load the bundle again")


def in_batches(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]], x: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Run any number of images without more than BATCH of them at work at once."""
    if len(x) <= BATCH:
        return run(x)
    return np.concatenate([run(x[start : start + BATCH]) for start in range(0, len(x), BATCH)])


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities `[N, K]` from logits `[N, K]`."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result
