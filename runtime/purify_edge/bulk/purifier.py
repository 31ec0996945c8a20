"""What each worker runs: a callable for Ray Data's `map_batches`; files of images in, answers out."""

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.reader import Bundle
from purify_edge.engines.base import BATCH
from purify_edge.engines.plan import AUTO
from purify_edge.engines.tensorrt.store import EnginePolicy
from purify_edge.errors import BundleError, InputError, reason
from purify_edge.extras import require_library
from purify_edge.images.arrays import to_8bit
from purify_edge.images.decoding import decode_image, read_image
from purify_edge.machine import cores
from purify_edge.pipeline.pipeline import Pipeline
from purify_edge.pipeline.prediction import NO_ANSWER, Prediction

PATH, CONTENT, SPARED, PURIFIED = "path", "bytes", "spared", "purified"
"""Columns: the file's name; its content, where that was read already; whether it kept its own answer; the image."""
ANSWER = {
    "label": "int64",
    "class": "string",
    "probability": "float32",
    "suspicion": "float32",
    "suspicious": "bool",
    "error": "string",
}
"""Columns that every answer has, and their types; those of the results of `purify-run`, by the same names."""
READERS = max(1, min(4, cores() // 2))  # beside the engine's own threads
BATCHES = 3  # under way at once: one is read while another runs
COMPRESSION = 3  # of PNG, as in purify-run

Answer = dict[str, Any]
Files = Sequence[tuple[str, bytes | None]]
"""Names of files, each with its content where that was read already."""
Read = NDArray[np.uint8] | str
"""An image, uint8 `[H, W, C]`, or why it cannot be read."""


def columns_of(*, spare_clean: bool, purified: bool) -> dict[str, str]:
    """Return the columns of the answers, and their types."""
    return ANSWER | ({SPARED: "bool"} if spare_clean else {}) | ({PURIFIED: "binary"} if purified else {})


class BulkPurifier:
    """A bundle's pipeline as a callable class for `Dataset.map_batches` with `batch_format="pyarrow"`.

    A batch has a column `path`, the file's name, and may have a column `bytes`, its content, as `read_binary_files`
    with `include_paths=True` gives them; without it the file is read here. The answer is the batch without `bytes`, and
    with the columns `label`, `class`, `probability`, `suspicion`, `suspicious` and `error`. An image that cannot be
    read has an `error`, and nothing in the others; none ends the job.

    Args:
        bundle: a folder that every worker sees, or the name of a bundle that ships; it is verified when it is loaded.
        engine, precision, verify, policy, allow_failed: see `Pipeline.load`.
        batch: images that run together; a larger batch of Ray's is divided, and one part is read while another runs.
        spare_clean: see `Pipeline.load`; add a column `spared`.
        purified: add a column `purified`, the purified image as PNG.
        folder: where relative paths begin; default the worker's current folder.
        sha256: of the bundle's manifest; another one is refused.

    Raises:
        BundleError: the bundle is damaged or not that of `sha256`; see also `Pipeline.load`.
        MissingError: pyarrow is not installed; see also `Pipeline.load`.
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        engine: str = AUTO,
        precision: str = AUTO,
        verify: Path | None = None,
        policy: EnginePolicy | None = None,
        allow_failed: bool = False,
        batch: int = BATCH,
        spare_clean: bool = False,
        purified: bool = False,
        folder: str = "",
        sha256: str | None = None,
    ) -> None:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters of them are errors of our own
        self._pyarrow = require_library("pyarrow", "ray")
        opened = Bundle.open(bundle, verify=verify, allow_failed=allow_failed)
        if sha256 not in (None, opened.sha256):
            raise BundleError(
                f"{opened.path} is another bundle on this machine: expected a manifest of SHA-256 {sha256}, found "
                f"{opened.sha256}; every machine has to see the same"
            )
        opened.verify()
        self.pipeline = Pipeline.load(
            opened, engine=engine, precision=precision, policy=policy, spare_clean=spare_clean
        )
        self._added = columns_of(spare_clean=spare_clean, purified=purified)
        self._folder, self._batch_images = folder, batch
        self._readers = ThreadPoolExecutor(READERS, "read")
        self._batches = ThreadPoolExecutor(BATCHES, "batch")

    def __call__(self, batch: Any) -> Any:
        """Return the batch, a pyarrow.Table, with the answers.

        Raises:
            InputError: the batch has no column `path`, or one that an answer has.
        """
        added = self._added
        self._check(batch, added)
        contents = batch[CONTENT].to_pylist() if CONTENT in batch.column_names else [None] * len(batch)
        files, size = list(zip(batch[PATH].to_pylist(), contents, strict=True)), self._batch_images
        answers = self.answers([files[start : start + size] for start in range(0, len(files), size)])
        table = self._pyarrow.Table.from_pylist(answers, schema=self._pyarrow.schema(list(added.items())))
        kept = [name for name in batch.column_names if name != CONTENT]
        columns = [batch[name] for name in kept] + table.columns
        return self._pyarrow.table(columns, names=kept + table.column_names)

    def _check(self, batch: Any, added: dict[str, str]) -> None:
        columns = getattr(batch, "column_names", None)
        if columns is None:
            raise InputError(f"expected a pyarrow.Table, got {type(batch).__name__}; use batch_format='pyarrow'")
        if PATH not in columns:
            raise InputError(f"expected a column {PATH!r}, got {', '.join(columns)}; include_paths=True adds it")
        if taken := sorted(set(columns) & added.keys()):
            raise InputError(f"the dataset has columns that answers have: {', '.join(taken)}; rename them")

    def answers(self, batches: Sequence[Files]) -> list[Answer]:
        """Return an answer a file, its fields by the names of the columns."""
        return [answer for answers in self._batches.map(self.answers_of, batches) for answer in answers]

    def answers_of(self, files: Files) -> list[Answer]:
        """Return an answer for each file of one batch; called in several threads at once."""
        read = list(self._readers.map(self._read, *zip(*files, strict=True)))
        pixels = [image for image in read if not isinstance(image, str)]
        try:
            found = self._found(self.pipeline.predict(np.stack(pixels))) if pixels else iter(())
        except Exception as error:  # of an engine, say; the other batches are not affected
            found = iter([{"error": f"cannot be purified ({reason(error)})"}] * len(pixels))
        answers = [{"error": image} if isinstance(image, str) else next(found) for image in read]
        for (name, _), answer in zip(files, answers, strict=True):
            if answer.get("error") and name not in answer["error"]:
                answer["error"] = f"{name}: {answer['error']}"
        return answers

    def _read(self, name: str, content: bytes | None) -> Read:
        try:
            if content is not None:
                return decode_image(content, self.pipeline.input, source=name)
            return read_image(os.path.join(self._folder, name), self.pipeline.input, name=name)  # noqa: PTH118
        except InputError as error:
            return str(error)
        except Exception as error:  # of a decoder, say
            return f"cannot be read ({reason(error)})"

    def _found(self, prediction: Prediction) -> Iterator[Answer]:
        """Yield the answer of each image of a prediction."""
        columns: dict[str, Sequence[Any]] = {
            "label": prediction.labels.tolist(),
            "class": self.pipeline.names_of(prediction.labels),
            "probability": prediction.probabilities.max(axis=1).tolist(),
        }
        if prediction.suspicion is not None and prediction.suspicious is not None:
            columns |= {"suspicion": prediction.suspicion.tolist(), "suspicious": prediction.suspicious.tolist()}
        if prediction.spared is not None:
            columns[SPARED] = prediction.spared.tolist()
        if PURIFIED in self._added:
            columns[PURIFIED] = [_png(image) for image in prediction.purified]
        for answered, row in zip(prediction.answered, zip(*columns.values(), strict=True), strict=True):
            yield dict(zip(columns, row, strict=True)) if answered else {"error": NO_ANSWER}


def _png(purified_CHW: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    to_8bit(np.nan_to_num(purified_CHW)).save(file, format="PNG", compress_level=COMPRESSION)
    return file.getvalue()
