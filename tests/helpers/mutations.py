"""Bundles that were changed by somebody who makes the manifest fit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from helpers.bundles import replace

Change = Callable[[onnx.ModelProto], None]


def mutate(bundle: Path, role: str, change: Change, precision: str = "fp32") -> None:
    """Change a model of a bundle."""
    path = f"models/{role}.{precision}.onnx"
    model = onnx.load(bundle / path)
    change(model)
    replace(bundle, path, model.SerializeToString())


def edit(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change one of a model's weights."""
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    old = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(change(old).astype(old.dtype), name))
