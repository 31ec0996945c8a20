"""From a float32 pair to the pair and its composition in another precision."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx

from purify_edge.bundle.golden import GoldenSplit
from purify_edge.bundle.manifest import Precision, Role
from purify_edge.bundle.report import Attempt, KeptLayer
from purify_export.convert.amounts import SCANNED
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.graphs import Array
from purify_export.convert.half_from_fp32 import Half, half_from_fp32
from purify_export.convert.image_set import Calibration
from purify_export.convert.int8_search import search
from purify_export.convert.range_scan import LossyLayer, range_scan
from purify_export.progress import Tell, silent


@dataclass(frozen=True)
class Converted:
    """The graphs of one precision by role, their layers that stay in float32, and the conversions that were tried."""

    graphs: Mapping[Role, onnx.ModelProto]
    kept: tuple[KeptLayer, ...] = ()
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class ConversionInput:
    """A pair that is converted, and the images that decide how."""

    pair: GraphPair  # in float32
    golden: Mapping[str, GoldenSplit]  # the golden set; the ranges of 16 bits are scanned on its images
    # the images for INT8; None where INT8 is not requested
    calibration: Calibration | None = field(default=None, repr=False)
    max_drop: float = 0.01  # the accuracy that INT8 may lose, a fraction


def convert(source: ConversionInput, precision: Precision, note: Tell = silent) -> Converted:
    """Return the graphs of a precision; raise BuildError where there is no way to convert them."""
    return CONVERTERS[precision](source, note)


def _fp32(source: ConversionInput, note: Tell) -> Converted:
    return Converted(source.pair.by_role())


def _half(source: ConversionInput, note: Tell, to: Half) -> Converted:
    """Convert to 16 bits all layers but those that the range scan finds."""
    count = SCANNED.of(next(iter(source.golden.values())).images.shape[1:])
    raw = {name: as_floats(split.images[:count]) for name, split in source.golden.items()}
    purified = {f"purified {name}": split.purified[:count] for name, split in source.golden.items()}
    found: dict[Role, list[LossyLayer]] = {
        "purifier": range_scan(source.pair.purifier, raw, to, note=note),
        "classifier": range_scan(source.pair.classifier, raw | purified, to, note=note),
    }
    kept = tuple(
        KeptLayer(precision=to, role=role, reason=finding.reason, **vars(finding.layer))
        for role, findings in found.items()
        for finding in findings
    )
    keep: dict[str, list[str]] = {role: [layer.node for layer in kept if layer.role == role] for role in found}
    keep["defended"] = [f"{layer.role}/{layer.node}" for layer in kept]
    graphs = source.pair.by_role()  # `defended` is one graph, so that nothing is cast between its halves
    return Converted({role: half_from_fp32(model, to, keep=keep[role]) for role, model in graphs.items()}, kept)


def _int8(source: ConversionInput, note: Tell) -> Converted:
    assert source.calibration is not None
    found = search(source.pair, source.calibration, max_drop=source.max_drop, note=note)
    return Converted(found.pair.by_role(), found.kept, found.attempts)


CONVERTERS: dict[Precision, Callable[[ConversionInput, Tell], Converted]] = {
    "fp32": _fp32,
    "fp16": partial(_half, to="fp16"),
    "bf16": partial(_half, to="bf16"),
    "int8": _int8,
}


def as_floats(images_u8: np.ndarray) -> Array:
    """Return uint8 images `[N, H, W, C]` as float32 `[N, C, H, W]` in [0, 1]."""
    return np.ascontiguousarray(images_u8.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
