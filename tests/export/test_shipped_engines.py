"""Every pair that ships, in every precision: PyTorch's numbers in ONNX Runtime, and an engine for every GPU."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch

from helpers.graphs import build_for_every_gpu, needs_rtx, run
from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.manifest import Precision
from purify_export.convert.convert import ConversionInput, Converted, as_floats, convert
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.half_from_fp32 import rounding_from_half
from purify_export.convert.image_set import ImageSet
from purify_export.convert.int8_from_fp32 import quantised_layers
from purify_export.convert.onnx_from_torch import check_graph
from purify_export.images.golden import reference
from purify_export.networks import Networks
from purify_toolkit.runs.pretrained import DEFAULT, open_run, pretrained_names

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
PROFILES = {"defended": (1, 16, 64), "purifier": (1, 1, 1), "classifier": (2, 8, 8)}
"""Each graph with a profile of its own: what a graph is, and its batches, have nothing to do with each other."""
TOLERANCE = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.1, "int8": 0.3}
"""Of the logits, as a fraction of the largest one's size."""
COUNT = 16


@dataclass(frozen=True)
class Shipped:
    """A pair that ships, in every precision."""

    converted: Mapping[Precision, Converted]
    golden: Mapping[str, GoldenSplit]


NAMES = [name if name == DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in pretrained_names()]


@pytest.fixture(scope="module", params=NAMES)
def ships(request: pytest.FixtureRequest) -> Shipped:
    """Images of noise, dim and bright, stand for those of the dataset, which not every pair may bring along."""
    folder = open_run(request.param)
    networks = Networks.load(folder)
    channels, height, width = folder.info["image_shape"]
    shape = (channels, height, width)
    pair = GraphPair.from_torch(networks.purifier, networks.classifier, shape)
    generator, golden, calibration = torch.Generator().manual_seed(0), {}, {}
    for split in ("clean", "adversarial"):
        noise = torch.rand((COUNT, *shape), generator=generator) * torch.rand((COUNT, 1, 1, 1), generator=generator)
        with torch.no_grad():
            labels = networks.defended(noise).argmax(dim=1)
        golden[split] = reference(networks, (noise * 255).to(torch.uint8), labels)
        calibration[split] = ImageSet(as_floats(golden[split].images), labels.numpy())
    source = ConversionInput(pair, golden, calibration, max_drop=0.5)
    return Shipped({precision: convert(source, precision) for precision in PRECISIONS}, golden)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_gives_pytorchs_numbers_in_onnx_runtime(ships: Shipped, precision: Precision) -> None:
    graphs = ships.converted[precision].graphs
    for role, graph in graphs.items():
        check_graph(graph)
        for split in ships.golden.values():
            expected = {"purifier": split.purified, "classifier": split.classifier}.get(role, split.defended)
            limit = TOLERANCE[precision] * max(1.0, float(np.abs(expected).max()))
            for model in _runnable(graph, precision):
                np.testing.assert_allclose(run(model, as_floats(split.images)), expected, rtol=0, atol=limit)
    assert set(graphs) == set(PROFILES)
    if precision == "int8":
        assert len(quantised_layers(graphs["defended"])) > 4


def _runnable(model: onnx.ModelProto, precision: Precision) -> list[onnx.ModelProto]:
    """ONNX Runtime runs all but bfloat16, and computes much of float16 in float32: the simulations round."""
    simulated = [rounding_from_half(model)] if precision in ("fp16", "bf16") else []
    return simulated + ([] if precision == "bf16" else [model])


@needs_rtx
@pytest.mark.parametrize(
    "role", ["defended", *(pytest.param(role, marks=pytest.mark.slow) for role in ("purifier", "classifier"))]
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_graph_is_built_for_every_gpu(ships: Shipped, precision: Precision, role: str) -> None:
    (graph,) = (graph for name, graph in ships.converted[precision].graphs.items() if name == role)
    build_for_every_gpu(graph, precision, PROFILES[role])
