"""Bundles that were changed by somebody who makes the manifest fit."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

Change = Callable[[onnx.ModelProto], None]


def replace(bundle: Path, path: str, content: bytes, *, splits: dict[str, int] | None = None) -> None:
    """Put another file in, and its size and hash into the manifest, as whoever changes a bundle could."""
    (bundle / path).write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    entries = [model["file"] for model in manifest["models"]] + [manifest["golden"]["file"]]
    (entry,) = (entry for entry in entries if entry["path"] == path)
    entry |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if splits:
        manifest["golden"]["splits"] = splits
    (bundle / "manifest.json").write_text(json.dumps(manifest))


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
