"""The data of a run in the classes of its classifier: mapped to its outputs, or labelled by its own answers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from purify_edge.errors import InputError
from purify_toolkit.data.folders.class_map import OutputNames, outputs_of, read_class_map
from purify_toolkit.data.folders.labels_file import few
from purify_toolkit.data.pixels import to_float
from purify_toolkit.data.splits import ImageData, Split
from purify_toolkit.networks.answers import answers_of
from purify_toolkit.networks.architectures import Classifier
from purify_toolkit.networks.pixel_classifier import PixelClassifier
from purify_toolkit.networks.trial import answer_of
from purify_toolkit.runs.folder import RunFolder

Network = Classifier | PixelClassifier


def in_classes_of(
    network: PixelClassifier,
    data: ImageData,
    *,
    class_names: OutputNames | None,
    class_map: Path | None,
    device: torch.device,
) -> ImageData:
    """Return the data with labels that are a network's outputs, and its names for the classes.

    Folders of a network without names, or of as many names that are others, are its outputs in their order.

    Args:
        network: in evaluation mode.
        data: in the classes of their folders, or without labels.
        class_names: the user's, for the outputs; None for the network's own.
        class_map: a file that says which output each folder is; None to go by the names.
        device: where the network computes.

    Raises:
        InputError: it is not clear which output a folder is; the network fails.
    """
    outputs = class_names or OutputNames(network.class_names)
    if data.unlabelled:
        return answered(network, data, outputs.names, device)
    if class_map is None and len(data.class_names) == len(outputs.names):
        if any(len(outputs.matching(name)) != 1 for name in data.class_names):
            return data
    elif class_map is None and not outputs.names:
        return data
    named = None if class_map is None else read_class_map(class_map)
    count = len(outputs.names) or _count(network, data, device)
    known = outputs if outputs.names else OutputNames(tuple(f"class {index}" for index in range(count)))
    found = outputs_of(data.class_names, known, named)
    if outputs.names:
        return mapped(data, found, outputs.names)
    own = {index: name for name, index in reversed(found.items())}
    return mapped(data, found, [own.get(index, name) for index, name in enumerate(known.names)])


def in_classes_of_run(run: RunFolder, data: ImageData, device: torch.device) -> ImageData:
    """Return data in the classes of a run, as the data were that it was trained on."""
    info = run.info
    if info.get("unlabelled"):
        return answered(run.load_classifier(), data, info["class_names"], device)
    return mapped(data, info["class_map"], info["class_names"]) if info.get("class_map") else data


def mapped(data: ImageData, class_map: Mapping[str, int], class_names: Sequence[str]) -> ImageData:
    """Return data whose labels are those that a map gives their classes."""
    if data.unlabelled:
        raise InputError("the run was begun with labels: leave out --unlabelled")
    missing = [name for name in data.class_names if name not in class_map]
    if missing:
        raise InputError(f"the data have folders that the run's data had not: {few(missing)}; leave them out")
    table = torch.tensor([class_map[name] for name in data.class_names])
    train, validation, test = (
        Split(split.images, table[split.labels]) for split in (data.train, data.validation, data.test)
    )
    names, outputs = tuple(class_names), dict(class_map)
    return replace(data, class_names=names, class_map=outputs, train=train, validation=validation, test=test)


def answered(network: Network, data: ImageData, class_names: Sequence[str], device: torch.device) -> ImageData:
    """Return data labelled by what a network answers on the images as they are.

    Raises:
        InputError: the network fails, or its logits are not finite.
    """
    count = _count(network, data, device)
    names = tuple(class_names) or tuple(f"class {index}" for index in range(count))
    network.eval().to(device)
    train, validation, test = (_answered(network, split, device) for split in (data.train, data.validation, data.test))
    return replace(data, class_names=names, train=train, validation=validation, test=test)


def _answered(network: Network, split: Split, device: torch.device) -> Split:
    if not len(split):
        return split
    answers = torch.from_numpy(answers_of(network, split, device))
    if (answers < 0).any():
        raise InputError(
            f"the classifier's logits are not finite for {int((answers < 0).sum())} of {len(answers)} images, which "
            "cannot be labelled by its answers; leave such images out"
        )
    return Split(split.images, answers)


def _count(network: Network, data: ImageData, device: torch.device) -> int:
    """Return how many outputs a network has, by trial."""
    with torch.no_grad():
        logits = answer_of("classifier", network.eval().to(device), to_float(data.test.images[:1], device))
    if logits.ndim != 2:
        raise InputError(f"the classifier gives {list(logits.shape)}, expected logits [N, K]")
    return logits.shape[1]
