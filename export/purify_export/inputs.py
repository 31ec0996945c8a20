"""What is exported: a pair, images and labels, checked before anything is begun."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from purify_edge.bundle.manifest import InputContract, Preprocessing
from purify_edge.bundle.report import AccuracyRow, CurvePoint
from purify_edge.errors import InputError, reason
from purify_export.convert.amounts import GOLDEN, OTHER
from purify_export.networks import ImageShape, Networks, PlainLogits
from purify_toolkit.data.pixels import to_8bit
from purify_toolkit.data.splits import Split
from purify_toolkit.networks.trial import answer_of, check_float32, check_independence, plain_logits
from purify_toolkit.recipe import EvaluationTable

Images = NDArray[Any] | Tensor
"""uint8 `[N, H, W, C]`, or floats `[N, C, H, W]` in [0, 1]."""
Labels = NDArray[Any] | Tensor
"""Integers `[N]`."""
CHANNELS = (1, 2, 3, 4)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where networks and images came from, for the manifest and the report."""

    provenance: Mapping[str, Any] = field(default_factory=dict)  # any facts, as the manifest keeps them
    others: str = "images that the golden set leaves"  # where the images came from that calibrate
    resized: str = ""  # from what size and how the images were resized; empty where they were not
    accuracy: tuple[AccuracyRow, ...] = ()  # accuracy and curve: what an evaluation in PyTorch found
    curve: tuple[CurvePoint, ...] = ()
    harm: tuple[str, ...] = ()  # in what the training found the purifier worse than none
    licence: str = ""  # of the networks, by SPDX's name; empty where it is not known


@dataclass(frozen=True, kw_only=True)
class ExportInput:
    """A pair and all that is needed to export it."""

    networks: Networks  # the pair
    judging: Split  # images of the golden set
    others: Split  # clean images for what is calibrated
    class_names: tuple[str, ...]  # a name for each of the classifier's outputs
    attack: EvaluationTable  # what makes the adversarial images
    preprocessing: Preprocessing  # how a picture became one of the images
    seed: int  # of that attack, and of the noise
    name: str  # what the manifest calls the bundle
    origin: Origin  # for manifest and report

    @property
    def image_shape(self) -> ImageShape:
        """The images' channels, height and width."""
        channels, height, width = self.judging.images.shape[1:]
        return channels, height, width

    @property
    def contract(self) -> InputContract:
        """What the models take, and how a picture becomes that."""
        channels, height, width = self.image_shape
        return InputContract(channels=channels, height=height, width=width, preprocessing=self.preprocessing)


def checked_input(
    purifier: nn.Module,
    classifier: nn.Module,
    images: Split,
    calibration: Split | None,
    *,
    class_names: Sequence[str] | None,
    attack: EvaluationTable,
    preprocessing: Preprocessing,
    seed: int,
    name: str,
    origin: Origin,
) -> ExportInput:
    """Return what is exported, see `export`; raise InputError where networks, images and labels do not fit."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(images)))
    count, more = GOLDEN.of(images.images.shape[1:]), OTHER.of(images.images.shape[1:])
    judging, rest = images[order[:count].sort().values], images[order[count:][:more].sort().values]
    others = rest if calibration is None else calibration[:more]
    channels, height, width = shape = tuple(judging.images.shape[1:])
    if tuple(others.images.shape[1:]) != shape:
        raise InputError(f"calibration images must be of the shape {list(shape)}, got {list(others.images.shape[1:])}")
    networks, names = checked_networks(purifier, classifier, (channels, height, width), class_names)
    for part in (images, others):
        _check_labels(part.labels, len(names))
    return ExportInput(
        networks=networks,
        judging=judging,
        others=others,
        class_names=names,
        attack=attack,
        preprocessing=preprocessing,
        seed=seed,
        name=name,
        origin=origin,
    )


def attack_table(epsilon: float, steps: int, relative_step: float) -> EvaluationTable:
    """Return the settings of the golden set's attack; raise InputError where they are out of range."""
    settings = {"epsilon": epsilon, "steps": steps, "relative_step": relative_step}
    try:
        return msgspec.convert(settings, EvaluationTable)
    except msgspec.ValidationError as error:
        raise InputError(f"the attack cannot be made with {settings}: {error}") from error


def checked_networks(
    purifier: nn.Module, classifier: nn.Module, image_shape: ImageShape, class_names: Sequence[str] | None
) -> tuple[Networks, tuple[str, ...]]:
    """Return the pair and its class names, once both networks were tried on two images.

    Raises:
        InputError: a network that is no module, in training mode, not in float32 on the CPU, or that does not take
            such images or give what it should, by each image alone; names of another number than the classes.
    """
    for role, network in (("purifier", purifier), ("classifier", classifier)):
        _check_module(role, network)
    x = torch.linspace(0, 1, 2 * prod(image_shape)).reshape(2, *image_shape)  # no image of one colour
    plain = PlainLogits(classifier).eval()
    with torch.no_grad():
        purified, logits = answer_of("purifier", purifier, x), answer_of("classifier", plain, x)
        raw = classifier(x)
    if purified.shape != x.shape:
        raise InputError(f"the purifier must keep the shape {list(x.shape)} of images, it gives {list(purified.shape)}")
    if purified.dtype != torch.float32:
        raise InputError(f"the purifier must give float32 images, it gives {purified.dtype}")
    if logits.ndim != 2 or len(logits) != 2 or logits.shape[1] < 2:
        given = list(logits.shape)
        raise InputError(f"the classifier must give logits [2, K], K >= 2, for two images, it gives {given}")
    names = tuple(class_names) if class_names is not None else tuple(f"class {k}" for k in range(logits.shape[1]))
    if len(names) != logits.shape[1]:
        raise InputError(f"the classifier has {logits.shape[1]} classes, class_names has {len(names)} names")
    for role, network in (("purifier", purifier), ("classifier", plain)):
        check_independence(role, network, x)
    if plain_logits(raw) is not raw:
        classifier = plain
    return Networks(purifier, classifier), names


def _check_module(role: str, network: object) -> None:
    if not isinstance(network, nn.Module):
        raise InputError(f"the {role} must be a torch.nn.Module, got {type(network).__name__}")
    if any(module.training for module in network.modules()):
        raise InputError(f"the {role} is in training mode, in which answers vary; call {role}.eval() first")
    check_float32(role, network)


def checked_images(images: object, labels: object) -> Split:
    """Return `Images` and `Labels` as uint8 `[N, C, H, W]` with their labels; raise InputError for anything else."""
    pixels, truth = _pixels(_tensor("images", images)), _tensor("labels", labels)
    if truth.ndim != 1 or truth.is_floating_point() or truth.dtype == torch.bool:
        raise InputError(f"labels must be integers [N], got {truth.dtype} {list(truth.shape)}")
    if len(truth) != len(pixels):
        raise InputError(f"there are {len(pixels)} images and {len(truth)} labels; give a label for each image")
    return Split(pixels, truth.to(torch.int64))


def _check_labels(labels: Tensor, classes: int) -> None:
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise InputError(f"labels must lie in 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}")


def _tensor(what: str, values: object) -> Tensor:
    try:
        return values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be a NumPy array or a tensor: {reason(error)}") from error


def _pixels(images: Tensor) -> Tensor:
    expected = "images must be uint8 [N, H, W, C] or floats [N, C, H, W] in [0, 1], C from 1 to 4"
    is_8bit = images.dtype == torch.uint8
    channels = 3 if is_8bit else 1
    if images.ndim != 4 or images.shape[channels] not in CHANNELS or not (is_8bit or images.is_floating_point()):
        raise InputError(f"{expected}, got {images.dtype} {list(images.shape)}")
    if 0 in images.shape:
        raise InputError(f"there is no image in {list(images.shape)}; give at least one")
    if is_8bit:
        return images.permute(0, 3, 1, 2).contiguous()
    if not (float(images.min()) >= 0 and float(images.max()) <= 1):  # not so either where one is not a number
        raise InputError(f"{expected}, got floats from {float(images.min()):g} to {float(images.max()):g}")
    return to_8bit(images.float())
