"""A purifier's and a classifier's graph, which are converted together."""

from dataclasses import dataclass

import onnx
from torch import nn

from purify_edge.bundle.manifest import Role
from purify_export.convert.graphs import composed
from purify_export.convert.onnx_from_torch import onnx_from_torch
from purify_toolkit.networks.onnx_graphs.pixel_graph import opset_of, raised


@dataclass(frozen=True)
class GraphPair:
    """The graphs of purifier and classifier, both of one precision."""

    purifier: onnx.ModelProto
    classifier: onnx.ModelProto

    @classmethod
    def from_torch(cls, purifier: nn.Module, classifier: nn.Module, image_shape: tuple[int, int, int]) -> "GraphPair":
        """Export two networks in float32, see `onnx_from_torch`, and bring them to one opset and IR version."""
        first = onnx_from_torch(purifier, image_shape=image_shape, output="purified")
        second = onnx_from_torch(classifier, image_shape=image_shape, output="logits")
        first, second = (raised(graph, opset_of(other)) for graph, other in ((first, second), (second, first)))
        first.ir_version = second.ir_version = max(first.ir_version, second.ir_version)
        return cls(first, second)

    def defended(self) -> onnx.ModelProto:
        """Return the two graphs composed."""
        return composed(self.purifier, self.classifier)

    def items(self) -> tuple[tuple[Role, onnx.ModelProto], ...]:
        """Return each network's role and graph."""
        return ("purifier", self.purifier), ("classifier", self.classifier)

    def by_role(self) -> dict[Role, onnx.ModelProto]:
        """Return the three graphs of a bundle by their roles."""
        return {"purifier": self.purifier, "classifier": self.classifier, "defended": self.defended()}
