"""What a graph says of itself, so that it can be used without its bundle."""

import msgspec
import onnx

from purify_edge.bundle.manifest import InputContract

INPUT = "purify_edge.input"
"""The key of the input contract, as JSON, in a model's metadata_props."""


def describe(model: onnx.ModelProto, contract: InputContract) -> None:
    """Write into a model what it takes, and how a picture becomes that."""
    others = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, others | {INPUT: msgspec.json.encode(contract).decode()})
