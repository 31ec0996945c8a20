"""What purify-run does: read ahead, purify, classify, and save behind; print, and keep count."""

import errno
import os
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.reader import Bundle
from purify_edge.engines.base import BATCH
from purify_edge.engines.plan import AUTO
from purify_edge.errors import InputError, reason
from purify_edge.files import atomic
from purify_edge.images.ahead import ahead
from purify_edge.images.cameras.raw import RawFrames
from purify_edge.images.grid import GRID_IMAGES, Tile, save_grid
from purify_edge.images.items import Item, Shard, Source
from purify_edge.images.sources import open_source
from purify_edge.images.video import DEFAULT_FPS
from purify_edge.images.walking import PassedOver
from purify_edge.pipeline.pipeline import Pipeline
from purify_edge.pipeline.prediction import NO_ANSWER, Prediction
from purify_edge.run.budget import load_within
from purify_edge.run.job import Job
from purify_edge.run.metrics import Metrics, open_metrics
from purify_edge.run.results import Result, ResultsFile, name_of, results_in
from purify_edge.run.saving import Annotator, SaveFolder

CORES = os.cpu_count() or 1
READERS = max(1, min(4, CORES // 2))  # beside the engine's own threads
BATCHES = 3  # under way at once: what one leaves idle, at its end or being written, another uses
PICTURES = 8  # frames a batch, where they are kept as they came
DIGITS = 6
OF_ONE_FILE = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP}
"""What cannot be written because of its own name or place; other failures, as a full disk, concern all that follow."""


@dataclass(slots=True)
class _Image:
    """One image on its way: read, uint8 `[H, W, C]`, or why not; then purified, float32 `[C, H, W]`, with a result."""

    file: str
    frame: int | None
    time_s: float | None
    picture: NDArray[np.uint8] | None
    saved: Path | None = None
    pixels: NDArray[np.uint8] | None = None
    purified: NDArray[np.float32] | None = None
    result: Result | None = None


class Run:
    """A job that runs. A context manager.

    Attributes:
        skipped: images that were done before.
        repeated: images that were named before.
        missed: frames that were done later than `--max-latency-ms` allows.
        live: whether a source comes at a pace of its own.
        camera: the last source, where it is a camera, stream or pipeline, or raw frames on standard input.

    Raises:
        InputError: an output that exists or cannot be; see also `ResultsFile`, `Annotator`, `open_metrics`.
        BundleError, MissingError: see `Pipeline.load`.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.skipped, self.repeated, self.missed = job, 0, 0, 0
        job.check_outputs()
        bundle = Bundle.open(job.bundle, verify=job.verify, allow_failed=job.allow_failed)
        self._sources = self._open_sources()
        self.live = any(source.live for source in self._sources)
        self._tiles: list[Tile] = []
        self.camera = self._sources[-1] if self._is_camera(self._sources[-1]) else None
        self._batch_images = PICTURES if job.annotate else BATCH
        self._stopped = False
        with ExitStack() as stack:
            self._pipeline = stack.enter_context(self._load(bundle))
            self._prepare(bundle, stack)
            self._stack = stack.pop_all()

    def _load(self, bundle: Bundle) -> Pipeline:
        job = self.job
        options: dict[str, Any] = {
            "engine": job.engine,
            "precision": self._precision(),
            "policy": job.policy,
            "spare_clean": job.spare_clean,
        }
        if job.max_latency_ms is None:
            return Pipeline.load(bundle, **options)
        if self.camera is None:
            raise InputError("--max-latency-ms is for a camera, a stream or raw frames; files take the time they take")
        return load_within(bundle, job.max_latency_ms, **options)

    def _open_sources(self) -> list[Source]:
        pictures = self.job.annotate is not None
        sources = self._named_sources(pictures)
        if pictures and (len(sources) != 1 or not hasattr(sources[0], "fps")):
            given = ", ".join(self.job.inputs)
            raise InputError(f"--annotate: expected one video, camera or stream as the only input, got {given}")
        if not self.job.shard:
            return sources
        if any(map(self._is_camera, sources)):
            raise InputError("--shard divides files; a camera or a stream cannot be divided")
        return [Shard(source, *self.job.shard) for source in sources]

    def _named_sources(self, pictures: bool) -> list[Source]:
        job = self.job
        if job.raw:
            return [RawFrames(job.raw, pictures=pictures)]
        sources = [
            source
            for argument in job.inputs
            for source in open_source(argument, pictures=pictures, reconnect_s=job.reconnect_s)
        ]
        if any(map(self._is_camera, sources[:-1])):
            raise InputError("a camera or stream has no end: give it last, and run one purify-run a camera")
        return sources

    @staticmethod
    def _is_camera(source: Source) -> bool:
        return source.live and hasattr(source, "fps")

    def _precision(self) -> str:
        """Return the precision to open the bundle in: results that are continued have one already."""
        job = self.job
        if job.out and not job.force and job.precision == AUTO and (first := next(results_in(job.out), None)):
            return first.model.rpartition("@")[0].rpartition("/")[2] or AUTO
        return job.precision

    def _prepare(self, bundle: Bundle, stack: ExitStack) -> None:
        job, plan = self.job, self._pipeline.plan
        model = job.model(bundle, plan.precision)
        if job.alert and self._pipeline.suspicion is None:
            raise InputError(f"--alert: {job.bundle} has no threshold for the suspicion score; export it again")
        self._model = model
        engine = f"{' or '.join(dict.fromkeys(way.partition(' ')[0] for way in plan.ways))} on {plan.device}"
        self._metrics: Metrics = stack.enter_context(closing(open_metrics(job.metrics, model=model, engine=engine)))
        self._out = job.out and stack.enter_context(
            closing(
                ResultsFile(
                    job.out, model=model, save=job.save, fresh=job.force, comes_again=self._sources != [self.camera]
                )
            )
        )
        if job.annotate and self._out and self._out.resumed and next(results_in(self._out.path), None):
            raise InputError(f"--annotate: {job.out} holds results, and a video cannot be continued; use --force")
        for path in (job.save_grid, job.annotate):
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
        taken = self._out.saved if self._out else ()
        self._folder = job.save and stack.enter_context(closing(SaveFolder(job.save, taken=taken)))
        self._annotator = job.annotate and stack.enter_context(Annotator(job.annotate))

    def count(self) -> int | None:
        """Return how many images there are; None where that cannot be known."""
        counts = [source.count() for source in self._sources]
        return None if None in counts else sum(filter(None, counts))

    def results(self) -> Iterator[list[Result]]:
        """Go through the images, a batch at a time; one result each, in order."""
        warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters of them are errors of our own
        reading = self._reading()
        waiting: deque[Future[Sequence[_Image]]] = deque()
        with ThreadPoolExecutor(BATCHES, "batch") as pool, closing(reading) as batches:
            try:
                for batch in batches:
                    waiting.append(pool.submit(self._process, batch))
                    while len(waiting) > (0 if self.live else BATCHES - 1):
                        yield self._finish(waiting.popleft().result())
                while waiting:
                    yield self._finish(waiting.popleft().result())
            finally:
                pool.shutdown(cancel_futures=True)
        if self.job.save_grid and self._tiles:
            with atomic(self.job.save_grid) as temporary:
                save_grid(self._tiles, temporary)

    def _reading(self) -> Generator[list[_Image], None, None]:
        """Read ahead; of a camera one frame at a time, for frames that wait grow old."""
        if self.camera:
            return ahead(self._read, self._items(), batch=1, eager=True, most=1)
        return ahead(self._read, self._items(), batch=self._batch_images, threads=READERS, eager=self.live)

    def stop(self) -> None:
        """Let a camera's run end in good order, soon; called in any thread, or while a signal is handled."""
        self._stopped = True
        for source in self._sources:
            source.stop()

    @property
    def dropped(self) -> int:
        """Return how many frames of a camera were left out, for newer ones had come."""
        return getattr(self.camera, "dropped", 0)

    @property
    def returns(self) -> int:
        """Return how often a camera was lost and came back."""
        return getattr(self.camera, "returns", 0)

    @property
    def passed(self) -> PassedOver:
        """Return what was left out in folders and zips."""
        passed = PassedOver()
        for source in self._sources:
            passed.add(source.passed)
        return passed

    def _items(self) -> Iterator[tuple[Item, Path | None]]:
        """Yield what is to be done, with the file for its purified image."""
        earlier: set[str] = set()
        for source in self._sources:
            files: set[str] = set()
            for item in source.items():
                if self._stopped:
                    return
                if len(self._sources) > 1 and not source.live:  # else no image can be named more than once
                    file = os.path.abspath(item.file)  # noqa: PTH100  # a Path takes longer
                    if file in earlier:
                        self.repeated += 1
                        continue
                    files.add(file)
                if self._out and item.key in self._out.done:
                    self.skipped += 1
                else:
                    yield item, self._folder.reserve(item.place) if self._folder and item.place else None
            earlier |= files

    def _read(self, entry: tuple[Item, Path | None]) -> _Image:
        item, saved = entry
        image = _Image(item.file, item.frame, item.time_s, item.picture, saved)
        begin = time.perf_counter()
        try:
            image.pixels = item.read(self._pipeline.input)
            self._metrics.time("read", time.perf_counter() - begin)
        except InputError as error:
            image.result = self._result(image, error=str(error))
        except Exception as error:  # of a decoder, say; the other images are not affected
            image.result = self._failed(image, f"cannot be read ({reason(error)})")
        return image

    def _failed(self, image: _Image, why: str) -> Result:
        return self._result(image, error=f"{name_of(image.file, image.frame)}: {why}")

    def _result(self, image: _Image, **answer: Any) -> Result:
        return Result(file=image.file, frame=image.frame, time_s=image.time_s, model=self._model, **answer)

    def _process(self, batch: Sequence[_Image]) -> Sequence[_Image]:
        """Purify and classify a batch's images, but for broken ones, and write what comes of them."""
        pixels = [image.pixels for image in batch if image.pixels is not None]
        if not pixels:
            return batch
        begin = time.perf_counter()
        images = np.stack(pixels)
        prediction = self._pipeline.predict(images)
        alone = self._pipeline.classify(images) if prediction.unpurified is None else prediction.unpurified
        self._metrics.time("predict", time.perf_counter() - begin)
        self._metrics.batch(len(pixels))
        self._write(batch, prediction, alone)
        return batch

    def _write(self, batch: Sequence[_Image], prediction: Prediction, alone: NDArray[np.float32]) -> None:
        """Save the purified images, and describe the answers."""
        begin = time.perf_counter()
        good = [image for image in batch if image.pixels is not None]
        for image, purified, answer in zip(good, prediction.purified, self._answers(prediction, alone), strict=True):
            image.result = self._written(image, purified, answer)
        self._metrics.time("write", time.perf_counter() - begin)

    def _written(self, image: _Image, purified: NDArray[np.float32], answer: dict[str, Any] | None) -> Result:
        if answer is None:
            return self._failed(image, NO_ANSWER)
        if self._folder and image.saved:
            try:
                self._folder.save(image.saved, purified)
            except OSError as error:
                if error.errno not in OF_ONE_FILE:
                    raise
                return self._failed(image, f"cannot be saved as {image.saved} ({error.strerror})")
            answer["saved"] = str(image.saved)
        image.purified = purified
        return self._result(image, **answer)

    def _answers(self, prediction: Prediction, alone: NDArray[np.float32]) -> Iterator[dict[str, Any] | None]:
        """Yield the fields of a result for each image of a prediction; None where the classifier has no answer."""
        answered = prediction.answered & np.isfinite(alone).all(axis=1)
        names_of = self._pipeline.names_of
        columns: dict[str, Sequence[Any]] = {
            "label": prediction.labels.tolist(),
            "class_name": names_of(prediction.labels),
            "probability": _rounded(prediction.probabilities.max(axis=1)),
            "unpurified_class": names_of(alone.argmax(axis=1)),
            "unpurified_probability": _rounded(alone.max(axis=1)),
        }
        if prediction.spared is not None:
            columns["spared"] = prediction.spared.tolist()
        if prediction.suspicion is not None and prediction.suspicious is not None:
            columns["suspicion"] = _rounded(prediction.suspicion)
            columns["suspicious"] = prediction.suspicious.tolist()
        for known, row in zip(answered.tolist(), zip(*columns.values(), strict=True), strict=True):
            yield dict(zip(columns, row, strict=True)) if known else None

    def _finish(self, images: Sequence[_Image]) -> list[Result]:
        """Return what is done in order: a line in the file of results, a tile of the grid, a frame of the video."""
        results = [image.result for image in images if image.result is not None]
        if self._out:
            self._out.append(results)
        if self.job.max_latency_ms is not None:
            late_s = time.time() - self.job.max_latency_ms / 1000
            self.missed += sum(image.time_s is not None and image.time_s < late_s for image in images)
        for image in images:
            self._show(image)
        self._metrics.count(results)
        self._metrics.camera(dropped=self.dropped, returns=self.returns, missed=self.missed)
        return results

    def _show(self, image: _Image) -> None:
        result = image.result
        if result is None or image.pixels is None or image.purified is None:
            return
        if self.job.save_grid and len(self._tiles) < GRID_IMAGES:
            words = (str(result.unpurified_class), str(result.class_name))
            self._tiles.append(Tile(Path(result.name).name, image.pixels, image.purified, *words))
        if self._annotator and image.picture is not None:
            text = f"{result.class_name} {100 * (result.probability or 0):.1f}%"
            (source,) = self._sources
            self._annotator.write(
                image.picture,
                f"{text}, suspicious" if result.suspicious else text,
                time_s=image.time_s or 0.0,
                fps=getattr(source, "fps", DEFAULT_FPS),
                warn=bool(result.suspicious),
            )

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def _rounded(values: NDArray[np.float32]) -> list[float]:
    rounded: list[float] = values.astype(np.float64).round(DIGITS).tolist()
    return rounded
