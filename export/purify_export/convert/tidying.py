"""Graph hygiene by the passes of onnx_ir."""

import onnx
import onnx_ir
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)


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
