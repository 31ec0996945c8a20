"""The demo's PGD, which is there where the toolkit and PyTorch are, on the bundle that ships."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from purify_edge.bundle.reader import Bundle
from purify_edge.demo.attacks import NONE, PGD
from purify_edge.demo.playground import Outcome, Playground
from purify_edge.pipeline.pipeline import Pipeline

WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None  # as if it were not installed
from purify_edge.bundle.reader import Bundle
from purify_edge.demo.attacks import TRICKS
from purify_edge.demo.playground import Playground
from purify_edge.pipeline.pipeline import Pipeline
with Pipeline.load("fashion-mnist", engine="onnxruntime", precision="fp32") as pipeline:
    assert Playground(Bundle.open("fashion-mnist"), pipeline).tricks == TRICKS
"""
needs_conversion = pytest.mark.skipif(sys.version_info < (3, 11), reason="onnx2pytorch needs Python 3.11")


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Pipeline.load("fashion-mnist", engine="onnxruntime", precision="fp32") as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def playground(pipeline: Pipeline) -> Playground:
    return Playground(Bundle.open("fashion-mnist"), pipeline)


def right(found: list[Outcome]) -> list[int]:
    """How many are right without the purifier, and with it."""
    return [sum(int(getattr(one, name).argmax() == one.truth) for one in found) for name in ("before", "after")]


@needs_conversion
def test_pgd_takes_the_classifier_in_and_the_purifier_mends_most(playground: Playground) -> None:
    steps: list[tuple[int, int]] = []
    clean, attacked = (
        [playground.play(title, None, name, 0.1, lambda *step: steps.append(step)) for title in playground.samples]
        for name in (NONE, PGD)
    )
    assert right(attacked)[0] == 0
    assert right(attacked)[1] >= 12
    attempts = sum(one.before.argmax() == one.truth for one in clean)
    assert steps == [(step, 20) for step in range(1, 21)] * attempts
    for one, two in zip(clean, attacked, strict=True):
        change = np.abs(two.image.astype(int) - one.image)
        assert change.max() == (0 if two.note else 26)  # 0.1 in whole 255ths
        assert (two.note != "") == (one.before.argmax() != one.truth)


@needs_conversion
def test_pgd_of_size_0_changes_nothing(playground: Playground) -> None:
    title = next(iter(playground.samples))
    clean, attacked = (playground.play(title, None, name, 0.0) for name in (NONE, PGD))
    np.testing.assert_array_equal(clean.image, attacked.image)


@pytest.mark.parametrize("missing", ["torch", "onnx2pytorch"])
def test_without_a_package_pgd_is_not_offered(missing: str) -> None:
    subprocess.run([sys.executable, "-c", WITHOUT, missing], check=True, timeout=300)
