"""A door for TorchScript, which PyTorch's older exporter alone makes a graph of."""

import io
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from purify_edge.errors import BuildError, InputError, reason
from purify_toolkit.networks.doors.opened import Opened, Wanted, read_file
from purify_toolkit.networks.graph_network import GraphNetwork, ImageShape

if TYPE_CHECKING:
    import onnx

KEPT = "classifier.torchscript"


class ScriptNetwork(GraphNetwork):
    """A scripted or traced network."""

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script

    def forward(self, x_NCHW: Tensor) -> object:
        """Return what the script gives."""
        return self.script(x_NCHW)

    def graph(self, image_shape: ImageShape) -> "onnx.ModelProto":
        """Export the script."""
        from purify_toolkit.networks.onnx_graphs.reading import parsed
        from purify_toolkit.networks.onnx_program import OPSET, silent

        buffer, dynamic = io.BytesIO(), {0: "batch"}
        try:
            with silent():
                torch.onnx.export(
                    self.script,
                    (torch.zeros(2, *image_shape),),
                    buffer,  # type: ignore[arg-type]  # the older exporter takes it
                    dynamo=False,
                    opset_version=OPSET,
                    input_names=["images"],
                    output_names=["logits"],
                    dynamic_axes={"images": dynamic, "logits": dynamic},
                )
        except ModuleNotFoundError:
            raise
        except Exception as error:  # a user's network may hold anything
            raise BuildError(
                f"torch {torch.__version__} cannot export the TorchScript to ONNX: {reason(error)}; build the network "
                "by its Python class and give it the TorchScript file's state_dict()"
            ) from error
        return parsed(buffer.getvalue(), "the graph of the TorchScript")

    def prove(self, x_NCHW: Tensor) -> None:
        """Do nothing: the export compares the graph with the script."""


def opened(name: str, wanted: Wanted) -> Opened:
    """Load TorchScript onto the CPU."""
    content = read_file(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is deprecated
            script = torch.jit.load(io.BytesIO(content), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--classifier {name} is no TorchScript ({reason(error)})") from error
    return Opened(network=ScriptNetwork(script), has_weights=True, files={KEPT: content}, is_whole=True)
