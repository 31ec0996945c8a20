from pathlib import Path
from typing import Any

import numpy as np
import pytest

from purify_edge import BundleError, InputError, Pipeline
from purify_edge.bundle.golden import GoldenSplit, load_golden
from purify_edge.bundle.reader import Bundle
from purify_edge.engines.base import BATCH
from purify_edge.pipeline.prediction import softmax


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_predictions_are_those_of_the_reference(bundle_path: Path, adversarial: GoldenSplit, precision: str) -> None:
    tolerance = {"fp32": 1e-5, "fp16": 5e-3}[precision]
    with Pipeline.load(bundle_path, precision=precision) as pipeline:
        prediction = pipeline.predict(adversarial.images)
        assert (prediction.labels == adversarial.defended.argmax(axis=1)).mean() >= 0.995
        np.testing.assert_allclose(prediction.purified, adversarial.purified, atol=tolerance)
        np.testing.assert_allclose(prediction.probabilities, softmax(adversarial.defended), atol=10 * tolerance)
        np.testing.assert_allclose(prediction.probabilities.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(pipeline.purify(adversarial.images), prediction.purified, atol=1e-6)
        alone = pipeline.classify(adversarial.images)
        np.testing.assert_allclose(alone, softmax(adversarial.classifier), atol=10 * tolerance)


def test_more_images_than_a_batch_come_back_in_order(bundle_path: Path, adversarial: GoldenSplit) -> None:
    count = 2 * BATCH + 3
    with Pipeline.load(bundle_path, engine="onnxruntime", precision="fp32") as pipeline:
        together = pipeline.predict(adversarial.images[:count]).probabilities
        alone = [pipeline.predict(adversarial.images[i : i + 1]).probabilities[0] for i in (0, BATCH, count - 1)]
    assert len(together) == count
    np.testing.assert_allclose(together[[0, BATCH, count - 1]], alone, atol=1e-5)


def test_bad_input_leaves_the_pipeline_usable(bundle_path: Path, adversarial: GoldenSplit) -> None:
    with Pipeline.load(bundle_path, engine="onnxruntime", precision="fp32") as pipeline:
        for bad in (np.zeros((1, 1, 5, 5), np.float32), np.full((1, 1, 28, 28), np.nan), np.zeros(3)):
            with pytest.raises(InputError):
                pipeline.predict(bad)
        assert pipeline.predict(adversarial.images[:1]).labels == adversarial.defended[:1].argmax()


def swap(manifest: dict[str, Any]) -> None:
    by_role = {model["role"]: model for model in manifest["models"] if model["precision"] == "fp32"}
    purifier, classifier = by_role["purifier"], by_role["classifier"]
    purifier["file"], classifier["file"] = classifier["file"], purifier["file"]


@pytest.mark.parametrize("change", [swap, lambda manifest: manifest["input"].update(height=32)], ids=["role", "size"])
def test_a_model_that_is_not_what_the_manifest_says_is_refused(edit_manifest: Any, change: Any) -> None:
    with pytest.raises(BundleError, match="takes and gives"):
        Pipeline.load(edit_manifest(change))


def test_large_logits_do_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [-1e4, -1e4]], np.float32)), [[1, 0], [0.5, 0.5]])


def test_probabilities_alone_are_those_of_the_prediction(bundle_path: Path) -> None:
    images = load_golden(Bundle.open(bundle_path))["adversarial"].images[:70]  # more than one batch
    with Pipeline.load(bundle_path, engine="onnxruntime", precision="fp32") as pipeline:
        prediction = pipeline.predict(images)
        np.testing.assert_array_equal(pipeline.probabilities(images), prediction.probabilities)
        np.testing.assert_array_equal(pipeline.purify(images), prediction.purified)
