"""A door for ONNX files: their graph goes into the bundle as it is, and a conversion of it gives gradients."""

import sys
from typing import TYPE_CHECKING

from torch import Tensor

from purify_edge.errors import MissingError
from purify_edge.extras import require_library
from purify_toolkit.data.published_input import PublishedInput, from_ultralytics
from purify_toolkit.networks.doors.opened import EXTRA, Opened, Wanted
from purify_toolkit.networks.graph_network import GraphNetwork, ImageShape

if TYPE_CHECKING:
    import onnx

KEPT = "classifier.onnx"


class OnnxNetwork(GraphNetwork):
    """The network of an ONNX file."""

    def __init__(self, original: "onnx.ModelProto", *, channels: int, source: str) -> None:
        from purify_toolkit.networks.onnx_graphs.adapting import pixel_form
        from purify_toolkit.networks.onnx_graphs.conversion import torch_from_onnx

        super().__init__()
        self._original, self._source = original, source
        self._form = pixel_form(original, channels=channels, source=source)
        self.converted = torch_from_onnx(self._form.model, source=source)

    def forward(self, x_NCHW: Tensor) -> object:
        """Return what the converted graph gives."""
        return self.converted(x_NCHW)

    def graph(self, image_shape: ImageShape) -> "onnx.ModelProto":
        """Return the file's graph between what adapts it."""
        return self._form.model

    def prove(self, x_NCHW: Tensor) -> None:
        """Compare the file as it is with its adapted form, and that with the converted network."""
        from purify_toolkit.networks.onnx_graphs.proof import prove_conversion, prove_form

        images = x_NCHW.detach()
        prove_form(self._original, self._form, images.cpu().numpy(), source=self._source)
        prove_conversion(self._form.model, self.converted, images, source=self._source)


def opened(name: str, wanted: Wanted) -> Opened:
    """Read a graph, adapt it to images `[N, C, H, W]`, and convert it for its gradients."""
    from purify_edge.engines.onnxruntime import require

    require_library("onnx", "export")
    require()
    if sys.version_info < (3, 11):
        raise MissingError("--classifier FILE.onnx needs onnx2pytorch, which needs Python 3.11 or newer; train there")
    require_library("onnx2pytorch", EXTRA)
    from purify_toolkit.networks.onnx_graphs.reading import class_names, content_of, read

    model = read(name)
    network = OnnxNetwork(model, channels=wanted.channels, source=name)
    return Opened(
        network=network,
        class_names=class_names(model),
        has_weights=True,
        files={KEPT: content_of(name, model)},
        is_whole=True,
    )


def published(name: str) -> PublishedInput | None:
    """Return what Ultralytics wrote into the file, or the size that the graph fixes; None where it says neither."""
    from purify_edge.bundle.manifest import Preprocessing

    require_library("onnx", "export")
    from purify_toolkit.networks.onnx_graphs.reading import fixed_size, metadata, read

    model = read(name)
    about = metadata(model)
    if "imgsz" in about and "task" in about:
        return from_ultralytics(about)
    size = fixed_size(model)
    return None if size is None else PublishedInput(Preprocessing(), size)
