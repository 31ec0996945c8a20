"""PyTorch to ONNX: one checked float32 graph with a dynamic batch, from which all other precisions are made."""

import onnx
import onnx_ir
import torch
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)
from torch import nn

from purify_edge.errors import BuildError, reason
from purify_toolkit.networks.onnx_program import OPSET, onnx_program
from purify_toolkit.networks.pixel_classifier import PixelClassifier


def onnx_from_torch(module: nn.Module, *, image_shape: tuple[int, int, int], output: str) -> onnx.ModelProto:
    """Export a module by the dynamo exporter, see `onnx_program`; a classifier with a graph of its own gives that.

    Returns:
        The model, checked by onnx.checker with strict shape inference, without the traces of the
        exporting machine (paths, stack traces) that the exporter leaves in it.

    Raises:
        BuildError: the module cannot be exported.
    """
    own = module.own_graph(image_shape, opset=OPSET) if isinstance(module, PixelClassifier) else None
    model = own or tidied(onnx_program(module, image_shape=image_shape, output=output).model_proto)
    try:
        check_graph(model)
    except Exception as error:  # the checker's exceptions share no base but Exception
        raise BuildError(
            f"torch {torch.__version__} makes a graph of the {type(module).__name__} that onnx.checker refuses: "
            f"{reason(error)}; try another version of torch"
        ) from error
    return model


def check_graph(model: onnx.ModelProto) -> None:
    """Have onnx.checker look at a graph, every type and shape in it inferred; it raises what it finds."""
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True), full_check=True)


def tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph without detours, copies of weights, and what leads to no output.

    The traces that an exporter leaves of its machine (paths, stack traces) go too; names stay as they are.
    """
    passes = Sequential(
        IdentityEliminationPass(),
        DeduplicateInitializersPass(),
        RemoveUnusedNodesPass(),
        RemoveUnusedOpsetsPass(),
        ClearMetadataAndDocStringPass(),
    )
    tidy = passes(onnx_ir.from_proto(model)).model
    tidy.metadata_props.clear()  # the pass leaves the model's own
    return onnx_ir.to_proto(tidy)
