"""PyTorch to ONNX by the dynamo exporter: the one call that the trial before a training and the export make."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from io import StringIO
from typing import Any

import torch
from torch import nn

from purify_edge.errors import BuildError, reason
from purify_toolkit.networks.export_failure import described
from purify_toolkit.networks.pixel_classifier import PixelClassifier

OPSET = 18  # ONNX Runtime's CUDA provider lacks Resize-19; static INT8 refuses 21 and later
OTHER_FLOATS = frozenset(("DOUBLE", "FLOAT16", "BFLOAT16"))

logger = logging.getLogger("purify_edge")


def onnx_program(module: nn.Module, *, image_shape: tuple[int, int, int], output: str) -> torch.onnx.ONNXProgram:
    """Export a module with a dynamic batch, computing in float32.

    Args:
        module: float32, on the CPU, in evaluation mode, images `[N, C, H, W]` -> one tensor.
        image_shape: C, H, W; fixed in the graph.
        output: the output's name; the input's is `images`.

    Raises:
        BuildError: the module cannot be exported; the message names the layer, the reason and what to do.
        ModuleNotFoundError: a package that torch's exporter needs is not installed.
    """
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise BuildError(
            f"TorchScript, which is in the {type(module).__name__}, cannot be exported to ONNX; build the network by "
            "its Python class and give it the TorchScript file's state_dict()"
        )
    names: dict[str, Any] = {"input_names": ["images"], "output_names": [output]}
    try:
        with silent():
            program = torch.onnx.export(
                module, **_example(image_shape), **names, dynamo=True, opset_version=OPSET, verbose=False
            )
            assert program is not None
            shape = program.model.graph.inputs[0].shape
            if shape is not None and isinstance(shape[0], int):  # the exporter's way out where code fixes the batch
                _traced(module, image_shape)
                raise BuildError("its code fixes the size of the batch")
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a user's network may hold anything
        raise _refusal(error, module, image_shape) from error
    _check_floats(module, program)
    return program


def check_exportable(module: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Try the export of a classifier, on the CPU, so that what fails there does not fail after a training.

    Without onnx and onnxscript, which a training does not need, PyTorch's own half of it is tried.

    Raises:
        BuildError: it cannot be exported.
    """
    try:
        if not isinstance(module, PixelClassifier) or module.own_graph(image_shape, opset=OPSET) is None:
            onnx_program(module, image_shape=image_shape, output="logits")
        return
    except ModuleNotFoundError as error:
        logger.info("of the export to ONNX only PyTorch's half was tried: there is no %s", error.name)
    try:
        with silent():
            _traced(module, image_shape)
    except Exception as error:  # a user's network may hold anything
        raise _refusal(error, module, image_shape) from error


def _check_floats(module: nn.Module, program: torch.onnx.ONNXProgram) -> None:
    for node in program.model.graph:
        types = {value.dtype.name for value in node.outputs if value.dtype is not None} & OTHER_FLOATS
        if types and node.op_type not in ("Cast", "Constant"):
            layer = node.metadata_props.get("namespace", node.name or "").split("/")[-2:][0]
            raise BuildError(
                f"the {type(module).__name__} computes in {types.pop().lower()} in the layer {layer}, not in float32; "
                "leave autocast, half() and double() out of forward: the export makes the other precisions"
            )


def _refusal(error: Exception, module: nn.Module, image_shape: tuple[int, int, int]) -> BuildError:
    what = f": {reason(error)}"
    with silent(), suppress(Exception):  # the explanation traces the network once more
        what = described(error, module, partial(_traced, module, image_shape))
    return BuildError(f"torch {torch.__version__} cannot export the {type(module).__name__} to ONNX{what}")


def _traced(module: nn.Module, image_shape: tuple[int, int, int]) -> torch.export.ExportedProgram:
    """Do the exporter's first step."""
    return torch.export.export(module, **_example(image_shape))


def _example(image_shape: tuple[int, int, int]) -> dict[str, Any]:
    images = torch.zeros(2, *image_shape)  # not 1: a size of 1 would be taken for a constant
    return {"args": (images,), "dynamic_shapes": ({0: torch.export.Dim("batch")},)}


@contextmanager
def silent() -> Iterator[None]:
    """Keep back what the exporter prints, logs and warns of; its errors are raised as ours."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), torch.no_grad(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(disabled)
