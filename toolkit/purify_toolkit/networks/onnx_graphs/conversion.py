"""ONNX to PyTorch by onnx2pytorch, for gradients; what it makes does not pass torch's own export."""

import warnings
from typing import Any

from onnx import ModelProto
from torch import nn

from purify_edge.errors import InputError, reason
from purify_edge.extras import require_library


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
            module: nn.Module = library.ConvertModel(optimizer.optimize(model))
    except Exception as error:  # it raises almost anything at what it does not know
        raise InputError(
            f"onnx2pytorch cannot convert {source} ({reason(error)}), and a purifier cannot be trained without the "
            "classifier's gradients; give the network by its Python code, or as a program of torch.export"
        ) from error
    return module.eval().requires_grad_(False)
