"""Networks of any width, depth, size and number of channels, in every precision, against PyTorch."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.graphs import build_for_every_gpu, run
from purify_edge.engines.tensorrt.library import installed_builders
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.half_from_fp32 import FORMATS, half_from_fp32, rounding_from_half
from purify_export.convert.image_set import ImageSet
from purify_export.convert.int8_from_fp32 import quantised_layers
from purify_export.convert.int8_search import quantise_pair
from purify_export.convert.onnx_from_torch import check_graph
from purify_export.convert.range_scan import range_scan
from purify_toolkit.networks.architectures import CLASSIFIERS, Classifier, Purifier

TOLERANCE = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.15, "int8": 0.3}
"""Of the logits, as a fraction of the largest one's size."""


Case = tuple[Purifier, Classifier, np.ndarray, tuple[int, int, int]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A purifier, a classifier, images that both take, and a batch profile."""
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
    least, usual, most = sorted(draw(st.integers(1, 128)) for _ in range(3))
    return purifier.eval(), classifier.eval(), images, (least, usual, most)


EASILY = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])


@settings(EASILY, max_examples=1)
@given(case=cases())
def test_every_precision_gives_pytorchs_numbers(case: Case) -> None:
    examine(case, built=False)


@pytest.mark.slow
@settings(EASILY, max_examples=4)
@given(case=cases())
def test_every_precision_gives_pytorchs_numbers_and_is_built(case: Case) -> None:
    examine(case, built=True)


def examine(case: Case, *, built: bool) -> None:
    """Compare each precision with PyTorch, and build it where that is asked for and TensorRT for RTX is here."""
    purifier, classifier, images, batch = case
    pair = GraphPair.from_torch(purifier, classifier, (images.shape[1], images.shape[2], images.shape[3]))
    with torch.no_grad():
        expected = classifier(purifier(torch.from_numpy(images))).numpy()
    keep = {
        to: [
            f"{role}/{finding.layer.node}"
            for role, model in pair.items()
            for finding in range_scan(model, {"random": images}, to)
        ]
        for to in FORMATS
    }
    int8 = quantise_pair(pair, {"clean": ImageSet(images, np.zeros(len(images), np.int64))})
    models = {
        "fp32": pair.defended(),
        "int8": int8.defended(),
        **{to: half_from_fp32(pair.defended(), to, keep=names) for to, names in keep.items()},
    }
    assert len(quantised_layers(models["int8"])) > 4
    for precision, model in models.items():
        check_graph(model)
        found = run(rounding_from_half(model), images)
        limit = TOLERANCE[precision] * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit, err_msg=precision)
        if precision != "bf16":
            assert np.allclose(run(model, images), found, rtol=0, atol=limit)
    if not built or "tensorrt_rtx" not in installed_builders():
        return
    halves = {to: {role: half_from_fp32(model, to) for role, model in pair.items()} for to in FORMATS}
    alone = {"fp32": dict(pair.items()), "int8": dict(int8.items()), **halves}
    for precision, model in models.items():
        for graph in (model, *alone[precision].values()):
            build_for_every_gpu(graph, precision, batch)
