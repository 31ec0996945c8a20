"""The pipeline: purifier, then classifier, as run on a device."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge import machine
from purify_edge.bundle.reader import Bundle
from purify_edge.bundle.report import Plan
from purify_edge.engines.base import BATCH, Closing, in_batches
from purify_edge.engines.plan import AUTO, PlannedPair, open_plan
from purify_edge.engines.registry import engines_on
from purify_edge.engines.tensorrt.store import EnginePolicy
from purify_edge.errors import InputError
from purify_edge.images.arrays import as_batch
from purify_edge.images.pictures import Pictures, prepared
from purify_edge.pipeline.prediction import Prediction, answers_of, softmax
from purify_edge.pipeline.sparing import answering, is_spared, require_threshold, spare
from purify_edge.pipeline.stream import stream
from purify_edge.pipeline.suspicion import is_suspicious, suspicion_of

logger = logging.getLogger("purify_edge")

OnAlert = Callable[[Prediction], object]


class Pipeline(Closing):
    """A bundle's purifier and classifier, run as planned for this device. A context manager.

    Images are float `[N, C, H, W]` in [0, 1], or uint8 `[N, H, W, C]`, of the bundle's C, H and W; any N >= 1. All
    methods take what `prepare` takes, too. Colours are in the order RGB everywhere.

    Attributes:
        input: the bundle's input contract.
        class_names: the names of the K classes.
        suspicion: the bundle's threshold; None where images are not scored.
        spare: the bundle's threshold for sparing clean images; None where none is spared.
        source: the bundle's folder, or hf://ORG/NAME@COMMIT where it was downloaded.
        planned: the models as they are run, for code that has images as `as_batch` makes them.
    """

    def __init__(
        self,
        bundle: Bundle,
        planned: PlannedPair,
        *,
        suspicion: bool = True,
        spare_clean: bool = False,
        on_alert: OnAlert | None = None,
    ) -> None:
        manifest = bundle.manifest
        self.input, self.class_names = manifest.input, manifest.class_names
        self.suspicion = manifest.suspicion if suspicion else None
        self.spare = manifest.spare if spare_clean else None
        self.source = bundle.source or str(bundle.path)
        self.planned = planned
        self._on_alert = on_alert

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle,
        *,
        engine: str = AUTO,
        precision: str = AUTO,
        verify: Path | None = None,
        policy: EnginePolicy | None = None,
        allow_failed: bool = False,
        suspicion: bool = True,
        spare_clean: bool = False,
        on_alert: OnAlert | None = None,
    ) -> "Pipeline":
        """Open a bundle; every file is verified against its manifest before it is used.

        Args:
            bundle: a folder that `purify-export` wrote, the name of one that ships, hf://ORG/NAME[@REVISION] on the
                Hugging Face hub, or a bundle that is open already.
            engine: `auto`, the fastest that works here, or a key of `purify_edge.engines.registry.ENGINES`.
            precision: `auto`, the fastest that answers the golden set as PyTorch does on this device; or `fp32`,
                `fp16`, `bf16` or `int8`. It stays for the pipeline's life.
            verify: a public key, whose owner must have signed the bundle.
            policy: what may be done about engine files; None for the defaults.
            allow_failed: take even a bundle that broke a limit when it was exported.
            suspicion: score every image; it costs a run of the classifier on the unpurified image.
            spare_clean: let an image keep the classifier's own answer where purification hardly changes it; see
                `purify_edge.pipeline.sparing`. It costs what the score costs.
            on_alert: called with a prediction that holds a suspicious image, once a call of `predict`, in its thread.

        Raises:
            BundleError: the bundle is incomplete, damaged, marked as failed or not what was signed, or has no such
                precision.
            InputError: no engine of this name; `on_alert` or `spare_clean` where the bundle has no threshold for it.
            MissingError: the engine does not work here.
            BuildError: the engine cannot be built of the bundle's graphs.
        """
        opened = bundle
        if not isinstance(opened, Bundle):
            opened = Bundle.open(opened, verify=verify, allow_failed=allow_failed)
        elif verify and not opened.verified:
            raise InputError(f"{opened.path} was opened without a key: give it to Bundle.open(..., verify=KEY)")
        if on_alert and not (suspicion and opened.manifest.suspicion):
            why = (
                f"{opened.path} has no threshold for it: export it again" if suspicion else "leave suspicion=False out"
            )
            raise InputError(f"alerts need the suspicion score; {why}")
        if spare_clean:
            require_threshold(opened)
        planned = open_plan(opened, engine=engine, precision=precision, policy=policy)
        logger.info("%s: %s%s", opened.manifest.name, planned.plan, _left_out(planned.plan))
        return cls(opened, planned, suspicion=suspicion, spare_clean=spare_clean, on_alert=on_alert)

    @property
    def plan(self) -> Plan:
        """Return what runs the images now, in which precision, and why."""
        return self.planned.plan

    def prepare(self, pictures: Pictures, *, bgr: bool = False) -> NDArray[np.generic]:
        """Return pictures as the bundle takes them, uint8 `[N, H, W, C]`; floats stay floats `[N, C, H, W]`.

        Files, videos and pictures of any size become the same pixels. An array that has the bundle's H, W and C is
        taken for prepared, and so are floats.

        Args:
            pictures: a PIL image; a frame, uint8 `[height, width]` or `[height, width, 1, 3 or 4]`, of which a fourth
                channel is left out; several frames; floats in [0, 1], `[C, H, W]` or `[N, C, H, W]`; a tensor on the
                CPU like one of these; or a list of any.
            bgr: frames and floats come in the order BGR, as OpenCV gives them, not RGB.

        Raises:
            InputError: it is nothing like that.
        """
        return prepared(pictures, self.input, bgr=bgr)

    def names_of(self, labels: Iterable[int]) -> list[str | None]:
        """Return the names of the classes that labels mean; None for -1, which is no answer."""
        return [self.class_names[label] if label >= 0 else None for label in labels]

    def purify(self, images: Pictures) -> NDArray[np.float32]:
        """Return the purified images, float32 `[N, C, H, W]` in [0, 1].

        Raises:
            InputError: the images are not as the class says.
        """
        return in_batches(self.planned.purify, self._batch(images))

    def predict(self, images: Pictures) -> Prediction:
        """Purify, then classify, and score the change; see `on_alert` of `load` for what is called then.

        Raises:
            InputError: the images are not as the class says.
        """
        x = self._batch(images)
        if self.suspicion is None and self.spare is None:
            purified, logits = _in_parts(self.planned.both, x)
            return _prediction(purified, logits)
        purified, logits, unpurified = _in_parts(self.planned.scored, x)
        found: dict[str, Any] = {"unpurified": softmax(unpurified)}
        if self.suspicion:
            found["suspicion"] = suspicion_of(unpurified, logits, self.suspicion.score)
            found["suspicious"] = is_suspicious(found["suspicion"], self.suspicion.threshold)
        if self.spare:
            found["spared"] = is_spared(unpurified, logits, self.spare)
            logits = answering(found["spared"], unpurified, logits)
        prediction = replace(_prediction(purified, logits), **found)
        if self._on_alert and prediction.suspicious is not None and prediction.suspicious.any():
            self._on_alert(prediction)
        return prediction

    def labels(self, images: Pictures) -> NDArray[np.int64]:
        """Return the labels `[N]` of `predict` alone: on a CPU by one graph of both networks, and with no score.

        With `spare_clean` it takes as long as `predict`.

        Raises:
            InputError: the images are not as the class says.
        """
        return answers_of(self._logits(images))

    def probabilities(self, images: Pictures) -> NDArray[np.float32]:
        """Return the probabilities `[N, K]` of `predict` alone; see `labels`.

        Raises:
            InputError: the images are not as the class says.
        """
        return softmax(self._logits(images))

    def classify(self, images: Pictures) -> NDArray[np.float32]:
        """Return the classifier's probabilities `[N, K]` for the images as they are, *not* purified; for comparison.

        Raises:
            InputError: the images are not as the class says.
        """
        return softmax(in_batches(self.planned.classify, self._batch(images)))

    def stream(self, images: Iterable[Pictures], *, batch: int = BATCH, live: bool = False) -> Iterator[Prediction]:
        """Return an iterator over the predictions of single images, in order; they run in batches under the hood.

        A thread asks the iterable for images while the engine runs, never for more than two batches ahead, and for none
        before the first prediction is requested. An image is copied before the next one is requested, so that all may
        come in one array that is filled anew. Several streams may share a pipeline. Close the iterator, or use it
        up, before the pipeline is closed.

        Args:
            images: each as `prepare` takes it, or as it makes it; iterated in a thread of its own.
            batch: images that run together.
            live: run what is there rather than wait for a whole batch, for cameras and the like.

        Raises:
            InputError: an image is not as the class says, after the predictions of those before it.
        """
        return stream(self.predict, images, self.input, batch=batch, live=live)

    def _logits(self, images: Pictures) -> NDArray[np.float32]:
        """Return the logits `[N, K]` that answer."""
        x = self._batch(images)
        if self.spare is None:
            return in_batches(self.planned.logits, x)
        _, logits, unpurified = _in_parts(self.planned.scored, x)
        return spare(unpurified, logits, self.spare)

    def _batch(self, images: Pictures) -> NDArray[np.float32]:
        return as_batch(prepared(images, self.input), self.input)

    def close(self) -> None:
        """Free the engines; any later call of the pipeline is an InputError."""
        self.planned.close()
        closed: Any = _Closed()
        self.planned = closed


def _left_out(plan: Plan) -> str:
    """Return what does not run and why; where there is no GPU, that alone of all engines for GPUs."""
    for_gpus = set() if machine.may_have_gpu() else set(engines_on("gpu"))
    reasons = [f"; not {name}: {why}" for name, why in plan.left_out.items() if name not in for_gpus]
    return "".join([*reasons, "; no NVIDIA GPU here" if for_gpus & plan.left_out.keys() else ""])


def _prediction(purified: NDArray[np.float32], logits: NDArray[np.float32]) -> Prediction:
    return Prediction(answers_of(logits), softmax(logits), purified)


def _in_parts(
    run: Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], ...]], x: NDArray[np.float32]
) -> tuple[NDArray[np.float32], ...]:
    """Run any number of images, at most BATCH of them at once; see `in_batches`."""
    if len(x) <= BATCH:
        return run(x)
    parts = [run(x[start : start + BATCH]) for start in range(0, len(x), BATCH)]
    return tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))


class _Closed:
    """Stands where the models were."""

    def close(self) -> None:
        """Do nothing: nothing is left to free."""

    def __getattr__(self, name: str) -> Any:
        raise InputError("the pipeline is closed; load the bundle again")
