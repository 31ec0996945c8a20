"""What a graph says of itself, so that it can be used without its bundle."""

from dataclasses import dataclass
from typing import Any

import msgspec
import onnx

from purify_edge.bundle.manifest import InputContract

PREFIX = "purify_edge."
"""Of the keys in a model's metadata_props; their values are JSON."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What every model of a bundle says; the names of the fields are keys of its metadata, after `PREFIX`.

    Attributes:
        name: of the bundle.
        version: of purify-edge, which wrote it.
        input: what the model takes, and how a picture becomes that.
        class_names: of its classes, in the order of the logits.
        suspicion: score and threshold; None where the bundle has none.
        spare: threshold of the rule that spares clean images; None where the model does not have it.
        golden_sha256: of the golden set, which tells bundles apart. (The manifest's cannot stand in a file that the
            manifest lists.)
    """

    name: str
    version: str
    input: InputContract
    class_names: tuple[str, ...]
    suspicion: dict[str, Any] | None
    golden_sha256: str
    spare: dict[str, Any] | None = None


def describe(model: onnx.ModelProto, about: About) -> None:
    """Write into a model what it is."""
    others = {entry.key: entry.value for entry in model.metadata_props}
    ours = {f"{PREFIX}{key}": msgspec.json.encode(value).decode() for key, value in vars(about).items()}
    onnx.helper.set_model_props(model, others | ours)
