"""Classifiers that come as graphs, composed with the purifier in one opset and converted; and wrapped logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.files_of_models import SIZE, images, onnx_of, seeded, small
from purify_edge.engines.onnxruntime import OnnxRuntimeEngine
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.half_from_fp32 import half_from_fp32
from purify_export.convert.int8_from_fp32 import int8_from_fp32
from purify_export.convert.onnx_from_torch import check_graph
from purify_export.networks import PlainLogits
from purify_toolkit.networks.architectures import Purifier
from purify_toolkit.networks.user_classifier import ClassifierSource, build_classifier

HALF, QUARTER = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def answers(model: object, x: Tensor) -> np.ndarray:
    return OnnxRuntimeEngine(model.SerializeToString(), source="the graph").run(x.numpy())  # type: ignore[attr-defined]


@pytest.mark.parametrize(("opset", "outputs"), [(13, 4), (17, 1), (21, 4)])
def test_a_users_graph_is_composed_in_one_opset_and_converted(opset: int, outputs: int, tmp_path: Path) -> None:
    pytest.importorskip("onnx2pytorch")
    network = small(outputs, nn.Softmax(1) if outputs > 1 else nn.Sigmoid())
    (tmp_path / "mine.onnx").write_bytes(onnx_of(network, opset=opset, older=opset < 18))
    source = ClassifierSource(str(tmp_path / "mine.onnx"), HALF, QUARTER, own_weights=False)
    classifier = build_classifier(source, channels=3, classes=outputs).eval()
    purifier, x = seeded(lambda: Purifier(3, width=4, depth=2, blocks=1)), images(16) / 255
    pair = GraphPair.from_torch(purifier, classifier, (3, SIZE, SIZE))
    with torch.no_grad():
        expected = classifier(purifier(x)).numpy()
    half = half_from_fp32(pair.defended(), "fp16")
    for model, limit in ((pair.defended(), 1e-6), (half, 1e-3), (int8_from_fp32(pair.classifier, x.numpy()), 0.1)):
        check_graph(model)
        given = purifier(x).detach() if model.graph.name != "defended" else x
        assert np.abs(answers(model, given) - expected).max() < limit
        assert model.opset_import[0].version == max(18, opset)


class Wrapped(nn.Module):
    """Gives its logits in a dict, as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small()

    def forward(self, x: Tensor) -> dict[str, Tensor | None]:
        return {"loss": None, "logits": self.network(x)}


def test_a_classifier_that_wraps_its_logits_is_exported() -> None:
    plain, x = PlainLogits(seeded(Wrapped)).eval(), images(4) / 255
    purifier = seeded(lambda: Purifier(3, width=4, depth=2, blocks=1))
    pair = GraphPair.from_torch(purifier, plain, (3, SIZE, SIZE))
    np.testing.assert_allclose(answers(pair.classifier, x), plain(x).detach(), rtol=0, atol=1e-6)
