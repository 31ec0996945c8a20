"""A door for torchvision's models: `resnet18`, or `resnet18:DEFAULT` with published weights."""

from typing import Any

from purify_edge.errors import InputError
from purify_toolkit.data.published_input import PublishedInput, from_torchvision
from purify_toolkit.networks.doors.opened import Opened, Wanted, fetched


def opened(name: str, wanted: Wanted) -> Opened:
    """Build `NAME`, with a head for the data's classes, or `NAME:WEIGHTS`, as it was published."""
    from torchvision.models import get_model

    name, weights = _weights(name)
    if weights is None:
        return Opened(network=get_model(name, weights=None, num_classes=wanted.classes))
    if wanted.own_weights:
        raise InputError(
            f"--classifier torchvision:{name} names weights, and --weights others: leave one of the two out"
        )
    names = tuple(weights.meta["categories"])

    def load() -> Any:
        return get_model(name, weights=weights if wanted.fill else None, num_classes=len(names))

    return Opened(
        network=fetched(f"torchvision:{name}", load),
        class_names=names,
        has_weights=True,
    )


def published(name: str) -> PublishedInput | None:
    """Return what the weights' `transforms()` say; None where no weights are named."""
    weights = _weights(name)[1]
    return None if weights is None else from_torchvision(weights.transforms())


def _weights(name: str) -> tuple[str, Any]:
    """Return a model's name and the requested member of its enum of weights."""
    from torchvision.models import get_model_weights

    name, _, key = name.partition(":")
    if not key:
        return name, None
    known = get_model_weights(name).__members__
    if key not in known:
        raise InputError(f"--classifier torchvision:{name}:{key}: {name} has the weights {', '.join(known)}")
    return name, known[key]
