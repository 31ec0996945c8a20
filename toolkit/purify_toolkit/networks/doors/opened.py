"""What a door asks and what it gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from purify_edge.errors import InputError, MissingError, reason

EXTRA = "classifiers"
"""Of purify-edge: the libraries that doors need."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a network is opened for."""

    channels: int  # of the images
    classes: int  # that the data has; a network without published weights gets a head for them
    own_weights: bool = True  # whether the user's own file of weights fills the network, not the library's
    fill: bool = True  # whether to load the library's weights; False where a run folder has them


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A network as a door gives it, without the normalisation of its input."""

    network: nn.Module
    class_names: tuple[str, ...] = ()  # a name for each output, where the library or file has them
    has_weights: bool = False
    files: Mapping[str, bytes] = field(default_factory=dict)  # by name: what a run folder keeps to open it again
    is_whole: bool = False  # whether the files hold the weights too


def read_file(path: str) -> bytes:
    """Return the content of a user's file; raise InputError where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"--classifier {path}: {error.strerror or error}") from error


def fetched(what: str, load: Callable[[], nn.Module]) -> nn.Module:
    """Return a network whose weights may come over the network; raise MissingError where they do not come."""
    try:
        return load()
    except (OSError, ConnectionError) as error:
        raise MissingError(
            f"the weights of {what} are neither here nor to be downloaded ({reason(error)}); download them where there "
            "is a network and copy the library's cache here, or give the weights by --weights FILE"
        ) from error
