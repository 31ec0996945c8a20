"""ONNX to PyTorch by onnx2pytorch, for gradients; what it makes does not pass torch's own export."""

import warnings
from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from purify_edge.errors import InputError, reason
from purify_edge.extras import require_library


class Clip(nn.Hardtanh):
    """Clip between two numbers, the first below the second.

    onnx2pytorch's takes tensors, whose own gradients take longer than the convolutions; the gradient of torch's `clamp`
    between numbers takes twice as long as this one.
    """

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        """Return x, clipped; the bounds come again from the graph and are known already."""
        return super().forward(x)


def torch_from_onnx(model: ModelProto, *, source: str) -> nn.Module:
    """Return a graph as a module in evaluation mode.

    Constants are folded first: graphs of torch's older exporter share weights through Identity nodes, which
    onnx2pytorch takes for computed ones.

    Raises:
        InputError: the graph has something that onnx2pytorch does not know.
        MissingError: onnxscript or onnx2pytorch is not installed.
    """
    optimizer = require_library("onnxscript.optimizer", "export")
    library: Any = require_library("onnx2pytorch", "classifiers")
    warnings.filterwarnings("ignore", module="onnx2pytorch")  # of how it indexes; the proof sees what that gives
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folded = optimizer.optimize(model)
            module: nn.Module = library.ConvertModel(folded)
            _clip_between_numbers(module, folded)
    except Exception as error:  # it raises almost anything at what it does not know
        raise InputError(
            f"onnx2pytorch cannot convert {source} ({reason(error)}), and a purifier cannot be trained without the "
            "classifier's gradients; give the network by its Python code, or as a program of torch.export"
        ) from error
    return module.eval().requires_grad_(False)


def _clip_between_numbers(module: nn.Module, model: ModelProto) -> None:
    """Replace each Clip of a converted graph between constants."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    name_of: dict[str, str] = vars(module)["mapping"]
    for node in model.graph.node:
        bounds = [*node.input[1:], "", ""][:2]
        if node.op_type == "Clip" and any(bounds) and all(name in constants for name in bounds if name):
            ends = zip(bounds, (-np.inf, np.inf), strict=True)
            low, high = (constants[name] if name else np.array(end) for name, end in ends)
            if low.dtype.kind == high.dtype.kind == "f" and low < high:
                setattr(module, name_of[node.output[0]], Clip(float(low), float(high)))
