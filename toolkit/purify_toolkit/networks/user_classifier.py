"""The user's own classifier: opened by a door, filled with weights, checked, never changed."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from purify_edge.errors import InputError
from purify_toolkit.data.splits import Split, batches
from purify_toolkit.networks.answers import answers_of, by_chance
from purify_toolkit.networks.class_order import check_order
from purify_toolkit.networks.doors.doors import kept_in, open_door, published_input
from purify_toolkit.networks.doors.opened import Wanted
from purify_toolkit.networks.pixel_classifier import PixelClassifier
from purify_toolkit.networks.trial import answer_of, check_float32, check_independence

logger = logging.getLogger("purify_edge")

TRIED = 8  # images


@dataclass(frozen=True)
class ClassifierSource:
    """Where a user's classifier comes from."""

    factory: str  # what `--classifier` says, see `doors.HOW`
    # of the normalisation it was trained with, a value a channel; empty for what its library says, else for pixels in
    # [0, 1]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()  # the same for the standard deviation
    own_weights: bool = True  # whether a file of weights is given, or they come with the network
    # "rgb" or "bgr", the order of the channels that it takes, in which mean and std are too; empty as for mean
    colour: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the content for run.json."""
        later: dict[str, Any] = {"colour": self.colour} if self.colour else {}  # keys that older runs do not have
        later |= {} if self.own_weights else {"own_weights": False}
        return {"factory": self.factory, "mean": list(self.mean), "std": list(self.std)} | later

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "ClassifierSource":
        """Return the source that `as_dict` was called on."""
        mean, std = tuple(content["mean"]), tuple(content["std"])
        return cls(content["factory"], mean, std, content.get("own_weights", True), content.get("colour", ""))


def build_classifier(
    source: ClassifierSource, *, channels: int, classes: int, run: Path | None = None
) -> PixelClassifier:
    """Build the user's network, with the weights that come with it; those of a file are not yet read.

    Args:
        source: what is built.
        channels: the images'.
        classes: how many the data has; a network that comes without weights gets so many outputs.
        run: a run folder that keeps the classifier's files, in which its weights are.

    Raises:
        InputError: there is no such callable, name or file; it fails, or gives no module; it has no weights;
            mean or std do not fit.
        MissingError: a library is not installed, or weights cannot be downloaded.
    """
    for name in ("mean", "std"):
        if len(getattr(source, name)) not in (0, channels):
            raise InputError(
                f"--{name} has {len(getattr(source, name))} values, the images have {channels} channels; "
                "channels in the recipe says how many they are given"
            )
    if bool(source.mean) != bool(source.std) or any(value <= 0 for value in source.std):
        raise InputError("--mean and --std belong together, and std must be above 0")
    factory = source.factory if run is None else kept_in(source.factory, run)
    wanted = Wanted(channels=channels, classes=classes, own_weights=source.own_weights, fill=run is None)
    opened = open_door(factory, wanted)
    if not opened.has_weights and not source.own_weights:
        raise InputError(f"--classifier {source.factory} names a network without weights: give them by --weights FILE")
    if opened.is_whole and source.own_weights:
        raise InputError(f"--classifier {source.factory} holds its weights: leave out --weights")
    mean, std, colour = source.mean, source.std, source.colour
    published = None if mean else published_input(factory)
    if published is not None and len(published.mean) == channels:
        mean, std = published.mean, published.std
    elif published is not None and published.mean:
        logger.warning(
            "%s is published for images of %d channels: its mean and std are left out for these of %d",
            *(source.factory, len(published.mean), channels),
        )
    if published is not None:
        colour = colour or published.colour
    if colour == "bgr" and channels != 3:
        raise InputError(f"a classifier that takes BGR is for images of 3 channels, these have {channels}")
    tensors = {"mean": torch.tensor(mean or [0.0]), "std": torch.tensor(std or [1.0])}
    return PixelClassifier(
        opened.network,
        class_names=opened.class_names,
        files=opened.files,
        is_whole=opened.is_whole,
        flipped=colour == "bgr",
        **tensors,
    )


def check_classifier(
    network: nn.Module, validation: Split, class_names: tuple[str, ...], device: torch.device, *, by_name: bool = False
) -> float:
    """Check that a network classifies the data; return its accuracy on the validation images, a fraction.

    With `by_name` labels are the network's outputs by their names, and no other order is looked for.

    Raises:
        InputError: it is not in float32; cannot take the images; gives something else than finite logits, a value a
            class, that depend on each image alone; has no gradient towards the image; has the classes in
            another order; or is hardly better than one answer for all images, or its answers at random.
    """
    check_float32("classifier", network.eval().cpu())
    network.to(device)
    images, _ = next(batches(validation[:TRIED], device))
    expected = [len(images), len(class_names)]
    logits = answer_of("classifier", network, images.requires_grad_())
    if list(logits.shape) != expected:
        raise InputError(
            f"the classifier gives {list(logits.shape)}, expected logits {expected} for the classes "
            f"{', '.join(class_names)}; of a network with more outputs --class-map FILE says which the folders are"
        )
    check_independence("classifier", network, images)
    if isinstance(network, PixelClassifier):
        network.prove(images)
    _check_logits(logits.detach())
    _check_gradient(logits, images)
    answers, labels = answers_of(network, validation, device), validation.labels.numpy()
    if (answers < 0).any():
        raise InputError(
            f"the classifier's logits are not finite for {int((answers < 0).sum())} of {len(answers)} validation "
            "images; leave such images out, or have it never divide by 0 (an image of one colour has a standard "
            "deviation of 0)"
        )
    if not by_name:
        check_order(answers, labels, class_names)
    right, chance = int((answers == labels).sum()), by_chance(answers, labels)
    all_right = right == len(validation)  # as with one class only, which shows nothing
    if not all_right and binomtest(right, len(validation), chance, alternative="greater").pvalue > 0.05:
        most = int(validation.labels.mode().values)
        raise InputError(
            f"the classifier is right on {100 * right / len(validation):.1f}% of {len(validation)} validation images, "
            f"no better than its answers at random, {100 * chance:.1f}%, where {class_names[most]!r} for all is right "
            f"on {100 * (labels == most).mean():.1f}%: check its weights, --mean and --std, and the order of the "
            f"classes: {', '.join(class_names)}"
        )
    return right / len(validation)


def _check_logits(logits: Tensor) -> None:
    """Refuse probabilities, of a softmax or of a sigmoid, before which stands the logit 0 of the other class."""
    sums, is_positive = logits.sum(1), (logits >= 0).all()
    if is_positive and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        raise InputError("the classifier gives probabilities, expected logits: leave out its last softmax")
    if logits.shape[1] == 2 and is_positive and not logits[:, 0].any() and (logits <= 1).all():
        raise InputError("the classifier gives a probability, expected a logit: leave out its last sigmoid")


def _check_gradient(logits: Tensor, images: Tensor) -> None:
    """Refuse a network with no logit that depends on the image in a way that can be differentiated."""
    weights = torch.arange(1.0, logits.shape[1] + 1, device=logits.device)  # a mere sum may be the same for all images
    tracked = logits.requires_grad
    gradient = torch.autograd.grad((logits * weights).sum(), images, allow_unused=True)[0] if tracked else None
    if gradient is None or not gradient.abs().sum() > 0:
        raise InputError("the classifier has no gradient towards the image; the purifier cannot be trained without")
