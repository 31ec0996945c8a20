"""The proof, on images, that what trains and what goes into the bundle answer as the user's file does."""

from collections.abc import Iterator

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from purify_edge.engines.onnxruntime import require
from purify_edge.errors import InputError, reason
from purify_toolkit.networks.onnx_graphs.adapting import BATCH, Array, PixelForm

LIMIT = 0.01
"""How far logits may lie apart, in relation to their spread. Sums in another order differ by 0.0003 at most in networks
with random weights, whose spread is small; another operator's by more than 0.1."""


def prove_form(original: ModelProto, form: PixelForm, images: Array, *, source: str) -> None:
    """Check that the adapted graph answers for images `[N, C, H, W]`, in one batch, as the file does."""
    found = form.answer(answers(form.model, images, source=source, fixed=form.batch))
    rows = form.given(images)
    size = form.batch or len(rows)
    if len(rows) < size:
        rows = rows[np.arange(size) % len(rows)]
    whole = len(rows) // size * size
    parts = [rows[start : start + size] for start in range(0, whole, size)]
    expected = np.concatenate(list(_run(original, parts, form.output, source=source)))
    expected = expected.reshape(len(expected), -1).astype(np.float32)
    hint = f"it takes batches of {form.batch}: {BATCH}" if form.batch else "adapting it changes it"
    count = min(len(found), len(expected))
    _compare(found[:count], expected[:count], f"{source} and its form for pixels", hint)


def prove_conversion(model: ModelProto, converted: nn.Module, images: Tensor, *, source: str) -> None:
    """Check that the converted network gives the graph's logits for images `[N, C, H, W]`."""
    expected = answers(model, images.cpu().numpy(), source=source)
    try:
        with torch.no_grad():
            found = converted(images).float().cpu().numpy()
    except Exception as error:  # what the conversion made of a graph may raise anything
        raise InputError(f"onnx2pytorch's conversion of {source} fails at images: {reason(error)}; {_OTHER}") from error
    _compare(found, expected, f"{source} in ONNX Runtime and converted by onnx2pytorch", _OTHER)


_OTHER = "give the network by its Python code, or as a program of torch.export"


def answers(model: ModelProto, images: Array, *, source: str, fixed: int = 0) -> Array:
    """Return ONNX Runtime's answers of a graph, on the CPU, for images in one batch."""
    try:
        (found,) = _run(model, [images], model.graph.output[0].name, source=source)
    except InputError as error:
        if fixed:
            raise InputError(f"{source} takes batches of {fixed} alone: {BATCH}") from error
        raise
    return found


def _run(model: ModelProto, parts: list[np.ndarray], output: str, *, source: str) -> Iterator[Array]:
    onnxruntime = require()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for part in parts:
            yield session.run([output], {name: part})[0]
    except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
        shape = list(parts[0].shape)
        raise InputError(
            f"ONNX Runtime cannot run {source} on images {shape}: {reason(error)}; --size gives images the size that "
            "the network takes"
        ) from error


def _compare(found: Array, expected: Array, what: str, hint: str) -> None:
    if found.shape != expected.shape:
        raise InputError(f"{what} give {list(found.shape)} and {list(expected.shape)} for the same images; {hint}")
    spread = float(expected.std(axis=0).mean())
    difference = float(np.abs(found - expected).max())
    if not difference <= LIMIT * spread + 1e-6:
        raise InputError(
            f"{what} differ by {difference:.3g} in their answers, whose spread is {spread:.3g}; {LIMIT:.0%} of it is "
            f"allowed; {hint}"
        )
