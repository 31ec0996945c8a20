"""What is counted, against PyTorch's own counter."""

from pathlib import Path

import onnx
import pytest
import torch
from purify_export.convert.flop import flop
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from purify_edge.bundle.reader import Bundle
from purify_export.convert.onnx_from_torch import onnx_from_torch


def counted_by_torch(module: nn.Module, shape: tuple[int, int, int]) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.rand(1, *shape))
    return int(counter.get_total_flops())


MODULES = {
    "convolutions": nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 5, groups=4)),
    "transposed": nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ConvTranspose2d(6, 4, 4, 2, 1, groups=2)),
    "linear": nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 7), nn.Linear(7, 5, bias=False)),
}


@pytest.mark.parametrize("name", MODULES)
def test_operations_are_those_that_pytorch_counts(name: str) -> None:
    module = MODULES[name].eval()
    model = onnx_from_torch(module, image_shape=(3, 12, 12), output="y")
    assert flop(model) == counted_by_torch(module, (3, 12, 12)) > 0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_manifest_tells_every_models_count(bundle_path: Path, precision: str) -> None:
    from purify_toolkit.runs.pretrained import open_run

    run = open_run(None)
    bundle = Bundle.open(bundle_path)
    counts = {role: bundle.model(role, precision).flop for role in ("purifier", "classifier", "defended")}
    assert counts["purifier"] == counted_by_torch(run.load_student(), (1, 28, 28))
    assert counts["classifier"] == counted_by_torch(run.load_classifier(), (1, 28, 28))
    assert counts["defended"] == (counts["purifier"] or 0) + (counts["classifier"] or 0)


def test_what_computes_nothing_counts_nothing() -> None:
    assert flop(onnx.ModelProto()) == 0
