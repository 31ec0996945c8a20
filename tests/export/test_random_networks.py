"""Networks of any width, depth, size and number of channels, in every precision, against PyTorch."""

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.graphs import built_by_rtx, run
from purify_export.half_from_fp32 import half_from_fp32, rounding_from_half
from purify_export.images import ImageSet
from purify_export.int8_from_fp32 import quantised_layers
from purify_export.int8_search import Pair, quantise_pair
from purify_export.onnx_from_torch import check_graph, onnx_from_torch
from purify_export.range_scan import range_scan
from purify_runtime.engines.trt.library import installed_builders
from purify_toolkit.networks import CLASSIFIERS, Classifier, Purifier

TOLERANCE = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.15, "int8": 0.3}
"""Of the logits, as a fraction of the largest one's size."""


@st.composite
def cases(draw: st.DrawFn) -> tuple[Purifier, Classifier, np.ndarray]:
    """A purifier, a classifier, and images that both take."""
    channels = draw(st.sampled_from([1, 3]))
    height, width = draw(st.integers(12, 23)), draw(st.integers(12, 23))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    purifier = Purifier(
        channels,
        width=draw(st.sampled_from([2, 5, 8])),
        depth=draw(st.integers(1, 3)),
        blocks=draw(st.integers(0, 1)),
    )
    classifier = Classifier(
        channels,
        draw(st.integers(2, 7)),
        mean=[0.4] * channels,
        std=[0.3] * channels,
        width=draw(st.sampled_from([3, 8])),
        blocks=draw(st.integers(1, 2)),
        architecture=draw(st.sampled_from(sorted(CLASSIFIERS))),
    )
    images = np.random.default_rng(draw(st.integers(0, 2**16))).random((6, channels, height, width), dtype=np.float32)
    return purifier.eval(), classifier.eval(), images


def graphs_of(purifier: Purifier, classifier: Classifier, images: np.ndarray) -> Pair:
    shape = (images.shape[1], images.shape[2], images.shape[3])
    return Pair(
        onnx_from_torch(purifier, image_shape=shape, output="purified"),
        onnx_from_torch(classifier, image_shape=shape, output="logits"),
    )


@settings(max_examples=4, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_every_precision_gives_pytorchs_numbers_and_is_built(case: tuple[Purifier, Classifier, np.ndarray]) -> None:
    purifier, classifier, images = case
    pair = graphs_of(purifier, classifier, images)
    with torch.no_grad():
        expected = classifier(purifier(torch.from_numpy(images))).numpy()
    keep = [
        f"{role}/{finding.layer.node}"
        for role, model in pair.items()
        for finding in range_scan(model, {"random": images})
    ]
    int8 = quantise_pair(pair, {"clean": ImageSet(images, np.zeros(len(images), np.int64))})
    models = {
        "fp32": pair.defended(),
        "fp16": half_from_fp32(pair.defended(), "fp16", keep=keep),
        "bf16": half_from_fp32(pair.defended(), "bf16"),
        "int8": int8.defended(),
    }
    assert len(quantised_layers(models["int8"])) > 4
    for precision, model in models.items():
        check_graph(model)
        found = run(rounding_from_half(model), images)
        limit = TOLERANCE[precision] * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit, err_msg=precision)
        if precision in ("fp32", "fp16", "int8"):
            assert np.allclose(run(model, images), found, rtol=0, atol=limit)
        if "tensorrt_rtx" in installed_builders():
            assert len(built_by_rtx(model, precision).content) > 1000
