"""The user's own classifier: built by a callable or by name, filled with weights, checked, never changed."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from purify_edge.errors import InputError, MissingError
from purify_toolkit.data.splits import Split, batches
from purify_toolkit.networks.answers import answers_of, by_chance
from purify_toolkit.networks.class_order import check_order
from purify_toolkit.networks.trial import answer_of, check_float32, check_independence, float32

TRIED = 8  # images
HOW = "expected PACKAGE.MODULE:CALLABLE, torchvision:NAME or timm:NAME"


@dataclass(frozen=True)
class ClassifierSource:
    """Where a user's classifier comes from."""

    factory: str  # `package.module:callable`, called without arguments; or `torchvision:name` or `timm:name`
    # of the normalisation it was trained with, a value a channel; empty where it takes pixels in [0, 1]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()  # likewise

    def as_dict(self) -> dict[str, Any]:
        """Return the content for run.json."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "ClassifierSource":
        """Return the source that `as_dict` was called on."""
        return cls(content["factory"], tuple(content["mean"]), tuple(content["std"]))


class PixelClassifier(nn.Module):
    """A user's network between its normalisation and float32: pixels `[N, C, H, W]` in [0, 1] -> logits `[N, K]`."""

    mean: Tensor
    std: Tensor
    class_names: tuple[str, ...] = ()  # of the outputs, where the network says them

    def __init__(self, network: nn.Module, *, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1))
        self.network = network

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map `[N, C, H, W]` pixels in [0, 1] to `[N, K]` logits."""
        # Contiguous, for images may come channels-last, and many a network flattens its features by view().
        logits: Tensor = self.network(((x_NCHW - self.mean) / self.std).contiguous())
        return float32(logits)


def build_classifier(source: ClassifierSource, *, channels: int, classes: int) -> PixelClassifier:
    """Build the user's network, its weights not yet read.

    Raises:
        InputError: there is no such callable or name; it fails, or gives no module; mean or std do not fit.
        MissingError: timm is asked for and not installed.
    """
    for name in ("mean", "std"):
        if len(getattr(source, name)) not in (0, channels):
            raise InputError(
                f"--{name} has {len(getattr(source, name))} values, the images have {channels} channels; "
                "channels in the recipe says how many they are given"
            )
    if bool(source.mean) != bool(source.std) or any(value <= 0 for value in source.std):
        raise InputError("--mean and --std belong together, and std must be above 0")
    library, _, name = source.factory.partition(":")
    try:
        network = _factory(library, name)(channels, classes)
    except (InputError, MissingError):
        raise
    except Exception as error:  # the user's own code may raise anything
        raise InputError(f"--classifier {source.factory} failed: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"--classifier {source.factory} gave a {type(network).__name__}, expected a torch.nn.Module")
    mean, std = (torch.tensor(values or fill) for values, fill in ((source.mean, [0.0]), (source.std, [1.0])))
    return PixelClassifier(network, mean=mean, std=std)


def check_classifier(
    network: nn.Module, validation: Split, class_names: tuple[str, ...], device: torch.device, *, by_name: bool = False
) -> float:
    """See that a network classifies the data; return its accuracy on the validation images, a fraction.

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
    values = logits.detach()
    if (values >= 0).all() and torch.allclose(values.sum(1), torch.ones(len(images), device=device), atol=1e-4):
        raise InputError("the classifier gives probabilities, expected logits: leave out its last softmax")
    tracked = logits.requires_grad
    gradient = torch.autograd.grad(logits[:, 0].sum(), images, allow_unused=True)[0] if tracked else None
    if gradient is None or not gradient.abs().sum() > 0:
        raise InputError("the classifier has no gradient towards the image; the purifier cannot be trained without")
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
    if binomtest(right, len(validation), chance, alternative="greater").pvalue > 0.05:
        most = int(validation.labels.mode().values)
        raise InputError(
            f"the classifier is right on {100 * right / len(validation):.1f}% of {len(validation)} validation images, "
            f"no better than its answers at random, {100 * chance:.1f}%, where {class_names[most]!r} for all is right "
            f"on {100 * (labels == most).mean():.1f}%: check its weights, --mean and --std, and the order of the "
            f"classes: {', '.join(class_names)}"
        )
    return right / len(validation)


def _factory(library: str, name: str) -> Callable[[int, int], Any]:
    """Return a function that builds the network from channels and classes."""
    if not library or not name:
        raise InputError(f"--classifier {library or name!r}: {HOW}")
    if library == "torchvision":
        from torchvision.models import get_model

        return lambda channels, classes: get_model(name, weights=None, num_classes=classes)
    if library == "timm":
        try:
            timm = importlib.import_module("timm")
        except ModuleNotFoundError as error:
            raise MissingError(f"--classifier timm:{name} needs timm: pip install timm") from error
        return lambda channels, classes: timm.create_model(name, in_chans=channels, num_classes=classes)
    return _user_callable(library, name)


def _user_callable(module: str, name: str) -> Callable[[int, int], Any]:
    here = str(Path.cwd())
    if here not in sys.path:  # as with python -m: the user's module may lie where the command is called
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise InputError(f"--classifier {module}:{name}: no module {error.name!r} here or installed; {HOW}") from error
    except AttributeError as error:
        raise InputError(f"--classifier {module}:{name}: {module} has no {name!r}; {HOW}") from error
    return lambda channels, classes: found()
