"""The search for the layers that INT8 costs too much: they stay in float32, the fewest that keep the accuracy."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from purify_edge.bundle.manifest import Role
from purify_edge.bundle.report import Attempt, KeptLayer
from purify_edge.check.limits import share_at_most
from purify_export.convert.amounts import RANKED
from purify_export.convert.graph_pair import GraphPair
from purify_export.convert.graphs import Array, layer_of, mean_squares, tensors, weights_of
from purify_export.convert.image_set import Calibration
from purify_export.convert.int8_from_fp32 import int8_from_fp32, quantisable, with_float_layers
from purify_export.progress import Tell, counted, silent

MAX_LOSS_ALONE = 0.2  # of what differs between two images' logits
Name = tuple[Role, str]
"""A layer: the network that it is in and its node."""


@dataclass(frozen=True)
class SearchResult:
    """The pair that a search ended with, its layers that are float32, and every attempt."""

    pair: GraphPair
    kept: tuple[KeptLayer, ...]
    attempts: tuple[Attempt, ...]


def quantise_pair(pair: GraphPair, calibration: Calibration) -> GraphPair:
    """Return both networks with every layer in INT8 that can be, calibrated on the images that each is run on.

    The classifier is run on purified images, and on images as they come.
    """
    images = np.concatenate([split.images for split in calibration.values()])
    purified = answer(pair.purifier, images)
    return GraphPair(
        int8_from_fp32(pair.purifier, images),
        int8_from_fp32(pair.classifier, np.concatenate([images, purified])),
    )


def search(pair: GraphPair, calibration: Calibration, *, max_drop: float, note: Tell = silent) -> SearchResult:
    """Quantise a pair and take back first the layers at its ends, then the most sensitive ones, until it is accurate.

    The first and the last layer of each network stay in float32, as does a layer that alone changes the logits by more
    than MAX_LOSS_ALONE. While accuracy drops too far, the most sensitive of the others follow: one, two, four ...

    The calibration images set the ranges, rank the layers and judge the attempts. Half of the drop that is allowed, a
    fraction of either split against the float32 pair's accuracy, is left for the images that judge, which are others.
    Of so few images that one answer breaks that, the drop's interval decides, as in a check.
    """
    note("ranges for INT8")
    int8 = quantise_pair(pair, calibration)
    layers: list[Name] = [(role, name) for role, model in pair.items() for name in quantisable(model)]
    kept = dict.fromkeys(ends(pair), "first or last layer")
    losses = _losses(pair, int8, layers, kept, calibration, note)
    ranked = sorted(losses, key=lambda layer: -losses[layer])
    said = {layer: f"alone in INT8 it changes the logits by {100 * losses[layer]:.2g}%" for layer in ranked}
    kept |= {layer: said[layer] for layer in ranked if losses[layer] > MAX_LOSS_ALONE}
    exact, more = _accuracies(pair, calibration), 1
    attempts: list[Attempt] = []
    best: tuple[float, GraphPair, dict[Name, str]] | None = None
    while True:
        note(f"attempt {len(attempts) + 1}, {len(kept)} of {len(layers)} layers in float32")
        candidate = mixed(int8, pair, kept)
        found = _accuracies(candidate, calibration)
        drop = {split: exact[split] - found[split] for split in calibration}
        attempts.append(_attempt(kept, layers, drop, calibration, max_drop / 2))
        worst = max(drop.values())
        if best is None or worst < best[0]:
            best = (worst, candidate, dict(kept))
        rest = [layer for layer in ranked if layer not in kept]
        if attempts[-1].passed or len(rest) <= 1:  # the last of them is left in INT8, or there would be none
            return SearchResult(best[1], tuple(_kept_layers(pair, best[2])), tuple(attempts))
        kept |= {layer: said[layer] for layer in rest[: min(more, len(rest) - 1)]}
        more *= 2


def ends(pair: GraphPair) -> list[Name]:
    """Return the first and the last layer of each network."""
    layers = {role: quantisable(model) for role, model in pair.items()}
    return [(role, name) for role, names in layers.items() for name in (*names[:1], *names[-1:])]


def mixed(int8: GraphPair, pair: GraphPair, kept: Collection[Name]) -> GraphPair:
    """Return the quantised pair with the kept layers in float32."""
    purifier, classifier = ([name for of, name in kept if of == role] for role, _ in pair.items())
    return GraphPair(
        with_float_layers(int8.purifier, pair.purifier, purifier),
        with_float_layers(int8.classifier, pair.classifier, classifier),
    )


def _losses(
    pair: GraphPair,
    int8: GraphPair,
    layers: list[Name],
    kept: Collection[Name],
    calibration: Calibration,
    note: Tell,
) -> dict[Name, float]:
    """Return by how much each layer but the kept ones, alone in INT8, changes the logits; see `search`."""
    images = np.concatenate([split.images[: RANKED.of(split.images.shape[1:])] for split in calibration.values()])
    purified = answer(pair.purifier, images)
    exact = answer(pair.classifier, purified)
    spread = mean_squares(exact - exact.mean(axis=0)).mean()
    losses = {}
    tried = [layer for layer in layers if layer not in kept]
    for layer in counted(tried, len(tried), "layers alone in INT8:", note):
        single = mixed(int8, pair, [other for other in layers if other != layer])
        seen = purified if layer[0] == "classifier" else answer(single.purifier, images)
        change = mean_squares(answer(single.classifier, seen) - exact).mean()
        losses[layer] = float(np.sqrt(change / spread)) if spread else 0.0
    return losses


def _accuracies(pair: GraphPair, calibration: Calibration) -> dict[str, float]:
    """Return the accuracy of both networks together, a fraction, by split."""
    model = pair.defended()
    return {
        name: float((answer(model, split.images).argmax(axis=1) == split.labels).mean())
        for name, split in calibration.items()
    }


def _attempt(
    kept: Mapping[Name, str], layers: list[Name], drop: dict[str, float], calibration: Calibration, limit: float
) -> Attempt:
    return Attempt(
        precision="int8",
        float32_layers=len(kept),
        layers=len(layers),
        n=min(len(split.labels) for split in calibration.values()),
        drop=drop,
        limit=limit,
        passed=all(
            share_at_most("accuracy drop", split, lost, limit, len(calibration[split].labels)).passed
            for split, lost in drop.items()
        ),
    )


def _kept_layers(pair: GraphPair, kept: Mapping[Name, str]) -> Iterator[KeptLayer]:
    for role, model in pair.items():
        for node in model.graph.node:
            if (role, node.name) in kept:
                layer = layer_of(node, weights_of(model))
                yield KeptLayer(precision="int8", role=role, reason=kept[role, node.name], **vars(layer))


def answer(model: onnx.ModelProto, images: Array) -> Array:
    """Return the graph's output."""
    name = model.graph.output[0].name
    return np.concatenate([values[name] for values in tensors(model, [name], images, optimised=True)])
