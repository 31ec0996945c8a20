"""Graphs of TensorFlow's and PaddlePaddle's own converters: `make test-graphs` makes them in `$PURIFY_TEST_GRAPHS`."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.files_of_models import logits_of, run_graph
from purify_toolkit.networks.onnx_program import OPSET
from purify_toolkit.networks.user_classifier import ClassifierSource, build_classifier

pytest.importorskip("onnx2pytorch")
FOLDER = os.environ.get("PURIFY_TEST_GRAPHS")


@pytest.mark.skipif(not FOLDER, reason="$PURIFY_TEST_GRAPHS names no folder; run make test-graphs")
@pytest.mark.parametrize("converter", ["tf2onnx", "keras", "paddle2onnx"])
def test_graphs_of_other_frameworks_answer_as_these_do(converter: str) -> None:
    path = Path(FOLDER or "") / f"{converter}.onnx"
    known = np.load(path.with_name("paddle.npz" if converter == "paddle2onnx" else "tensorflow.npz"))
    x = torch.from_numpy(known["images"]) / 255
    built = build_classifier(ClassifierSource(str(path), own_weights=False), channels=3, classes=4)
    built.prove(x)
    logits = logits_of(built, x)
    answers = logits if converter == "paddle2onnx" else logits.softmax(1)
    assert np.ptp(known["answers"], axis=0).min() > 0.01  # the images' answers differ
    np.testing.assert_allclose(answers, known["answers"], rtol=1e-3, atol=1e-4)
    own = built.own_graph((3, 64, 64), opset=OPSET)
    assert own is not None
    np.testing.assert_allclose(run_graph(own, x), logits, rtol=1e-4, atol=1e-4)
