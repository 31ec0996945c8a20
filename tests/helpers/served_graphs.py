"""The served graph of a bundle that has none, made of its purifier and classifier as the exporter makes it."""

from collections.abc import Sequence
from dataclasses import replace

import onnx

from purify_edge.bundle.manifest import Pixels
from purify_edge.bundle.reader import Bundle
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.metadata import About, describe
from purify_export.convert.served import served


def served_of(
    bundle: Bundle,
    precision: str = "fp32",
    *,
    pixels: Pixels = "float32",
    names: Sequence[str] | None = None,
    spare_clean: bool = False,
) -> onnx.ModelProto:
    """The graph with its metadata; `names` stand for the bundle's classes."""
    manifest = bundle.manifest
    halves = (bundle.read(bundle.model(role, precision).file) for role in ("purifier", "classifier"))
    pair, spare = GraphPair(*map(onnx.load_model_from_string, halves)), manifest.spare if spare_clean else None
    model = served(pair, manifest.input, manifest.suspicion, pixels, spare)
    entry = manifest.suspicion
    about = About(
        name=manifest.name,
        version=manifest.producer["purify-edge"],
        input=manifest.input,
        class_names=manifest.class_names,
        suspicion={"score": entry.score, "threshold": entry.threshold} if entry else None,
        golden_sha256=manifest.golden.file.sha256,
    )
    describe(model, replace(about, class_names=tuple(names)) if names else about)
    return model
