"""PyTorch to ONNX: one checked float32 graph with a dynamic batch, from which all other precisions are made."""

import logging
import warnings

import onnx
import torch
from torch import nn

from purify_edge.errors import BuildError, reason
from purify_export.convert.tidying import tidied

OPSET = 18  # ONNX Runtime's CUDA provider lacks Resize-19; static INT8 refuses 21 and later


def onnx_from_torch(module: nn.Module, *, image_shape: tuple[int, int, int], output: str) -> onnx.ModelProto:
    """Export a module by the dynamo exporter.

    Args:
        module: float32, in evaluation mode, images `[N, C, H, W]` -> one tensor.
        image_shape: C, H, W; fixed in the graph, while the batch is dynamic.
        output: the output's name; the input's is `images`.

    Returns:
        The model, checked by onnx.checker with strict shape inference, without the traces of the
        exporting machine (paths, stack traces) that the exporter leaves in it.

    Raises:
        BuildError: the module cannot be exported.
    """
    try:
        model = _exported(module, image_shape, output)
        check_graph(model)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a user's network may hold anything
        raise BuildError(
            f"torch {torch.__version__} cannot export the {type(module).__name__} to ONNX: "
            f"{reason(error.__cause__ or error)}; torch.export must be able to trace it, with any batch size"
        ) from error
    return model


def check_graph(model: onnx.ModelProto) -> None:
    """Have onnx.checker look at a graph, every type and shape in it inferred; it raises what it finds."""
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True), full_check=True)


def _exported(module: nn.Module, image_shape: tuple[int, int, int], output: str) -> onnx.ModelProto:
    example = torch.zeros(2, *image_shape)  # not 1: a size of 1 would be taken for a constant
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=[output],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    return tidied(program.model_proto)
