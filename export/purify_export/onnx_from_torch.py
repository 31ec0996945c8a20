"""PyTorch to ONNX: one checked graph, float32 in and out, dynamic batch, its precision written into it."""

import copy
import logging
import warnings

import onnx
import torch
from torch import Tensor, nn

from purify_runtime.errors import BuildError
from purify_runtime.manifest import Precision
from purify_toolkit.errors import reason

OPSET = 18  # ONNX Runtime's CUDA provider lacks Resize-19; static INT8 refuses 21 and later


class HalfPrecision(nn.Module):
    """A module in float16 between two casts: float32 in, float32 out."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).half()

    def forward(self, x: Tensor) -> Tensor:
        """Like the module, but computed in float16."""
        output: Tensor = self.module(x.half())
        return output.float()


def onnx_from_torch(
    module: nn.Module, *, image_shape: tuple[int, int, int], precision: Precision, output: str
) -> bytes:
    """Export a module by the dynamo exporter.

    Args:
        module: float32, in evaluation mode, images `[N, C, H, W]` -> one tensor.
        image_shape: C, H, W; fixed in the graph, while the batch is dynamic.
        precision: `fp32`, or `fp16` for a graph that computes in float16.
        output: the output's name; the input's is `images`.

    Returns:
        The serialised model, checked by onnx.checker with strict shape inference, without the traces of the
        exporting machine (paths, stack traces) that the exporter leaves in it.

    Raises:
        BuildError: the module cannot be exported.
    """
    try:
        model = _exported(module, image_shape, precision, output)
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True), full_check=True)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a user's network may hold anything
        raise BuildError(
            f"torch {torch.__version__} cannot export the {type(module).__name__} to ONNX in {precision}: "
            f"{reason(error.__cause__ or error)}; torch.export must be able to trace it, with any batch size"
        ) from error
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _exported(
    module: nn.Module, image_shape: tuple[int, int, int], precision: Precision, output: str
) -> onnx.ModelProto:
    wrapped = HalfPrecision(module).eval() if precision == "fp16" else module
    example = torch.zeros(2, *image_shape)  # not 1: a size of 1 would be taken for a constant
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            wrapped,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=[output],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    return _anonymous(program.model_proto)


def _anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
    for part in (*model.graph.initializer, *model.graph.value_info):
        part.ClearField("metadata_props")
    return model
