"""A short soak; `python -m lab.speed.soak` is the long one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.speed import soak
from purify_edge import Pipeline, Prediction
from purify_edge.bundle.golden import load_golden
from purify_edge.bundle.reader import Bundle


@pytest.fixture
def pipeline(bundle_path: Path) -> Iterator[Pipeline]:
    with Pipeline.load(bundle_path, engine="onnxruntime") as opened:
        yield opened


def run(pipeline: Any, bundle_path: Path, predictions: int) -> Any:
    images = load_golden(Bundle.open(bundle_path))["adversarial"].images[:64]
    work = soak.Soak(pipeline, images, predictions=predictions, batch=8)
    work.run(threads=4)
    return work


def test_four_threads_answer_as_one_does_and_nothing_grows(pipeline: Pipeline, bundle_path: Path) -> None:
    work = run(pipeline, bundle_path, 600)
    assert work.problems() == []
    assert sum(work.done.values()) == 600
    assert 1 <= work.done["refused"] <= 20
    assert work.images > 2000


class Wrong:
    """A pipeline with a fault that only some calls show."""

    def __init__(self, pipeline: Pipeline, fault: str) -> None:
        self._pipeline, self._fault, self._calls = pipeline, fault, 0
        self._hoard: list[np.ndarray] = []

    def predict(self, images: np.ndarray) -> Prediction:
        self._calls += 1
        if self._calls < 100:  # after those that the soak compares with
            return self._pipeline.predict(images)
        if self._fault == "crash" and self._calls % 50 == 0:
            raise RuntimeError("boom")
        if self._fault == "growth":
            self._hoard.append(np.ones(100_000, np.float32))
        if self._fault == "order" and len(images) > 1 and images.dtype == np.uint8 and images.ndim == 4:
            return self._pipeline.predict(images[::-1])
        return self._pipeline.predict(images)


@pytest.mark.parametrize(
    ("fault", "problem"), [("crash", "RuntimeError: boom"), ("order", "another answer"), ("growth", "memory grew by")]
)
def test_a_fault_is_found(pipeline: Pipeline, bundle_path: Path, fault: str, problem: str) -> None:
    found = run(Wrong(pipeline, fault), bundle_path, 400).problems()
    assert len(found) == 1
    assert problem in found[0]
