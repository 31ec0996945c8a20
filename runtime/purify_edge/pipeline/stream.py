"""Predictions of images that come one by one: batches under the hood, decoding or fetching beside the engine."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError
from purify_edge.images.ahead import ahead
from purify_edge.images.arrays import as_batch
from purify_edge.images.pictures import Pictures, prepared
from purify_edge.pipeline.prediction import Prediction


def stream(
    predict: Callable[[NDArray[np.float32]], Prediction],
    images: Iterable[Pictures],
    contract: InputContract,
    *,
    batch: int,
    live: bool,
) -> Iterator[Prediction]:
    """See `Pipeline.stream`."""
    if batch < 1:
        raise InputError(f"batch {batch}: expected 1 or more images")

    def checked(numbered: tuple[int, Pictures]) -> NDArray[np.float32]:
        number, image = numbered
        try:
            ready = prepared(image, contract)
            x = as_batch(ready, contract)
            if len(x) != 1:
                raise InputError(f"expected one image, got {len(x)}")
            return x.copy() if np.may_share_memory(x, ready) else x  # the caller may fill its array anew
        except InputError as error:
            raise InputError(f"image {number} of the stream: {error}") from error

    def run() -> Iterator[Prediction]:
        with closing(ahead(checked, enumerate(images), batch=batch, eager=live)) as batches:
            for together in batches:
                yield from rows(predict(np.concatenate(together)))

    return run()


def rows(prediction: Prediction) -> Iterator[Prediction]:
    """Yield N predictions of one image from one of N; they are copies, so that keeping one does not keep the others."""
    arrays = {field.name: getattr(prediction, field.name) for field in fields(prediction)}
    for index in range(len(prediction.labels)):
        row = {name: value[index : index + 1].copy() for name, value in arrays.items() if value is not None}
        yield replace(prediction, **row)
