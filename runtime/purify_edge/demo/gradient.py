"""PGD on a bundle's classifier: its gradient needs PyTorch, so it is offered only where the toolkit can be imported."""

import importlib
import logging
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.reader import Bundle
from purify_edge.errors import PurifyError

Array = NDArray[np.float32]

logger = logging.getLogger(__name__)


class GradientAttack(Protocol):
    """An attack on the classifier by its gradient."""

    def __call__(
        self, image_CHW: Array, label: int, *, epsilon: float, seed: int, tell: Callable[[int, int], None]
    ) -> Array:
        """Return the image, `[C, H, W]` in [0, 1], changed by epsilon at most; `tell` hears of each step."""
        ...


def gradient_attack(bundle: Bundle, images_NCHW: Array) -> GradientAttack | None:
    """Return PGD on the bundle's classifier, or None where a package is missing or the graph cannot be converted.

    Args:
        bundle: whose float32 classifier is attacked.
        images_NCHW: on which the gradient's network must answer as the classifier does.
    """
    try:
        module = importlib.import_module("purify_toolkit.attacks.on_graph")
        graph = bundle.read(bundle.model("classifier", "fp32").file)
        attack: GradientAttack = module.GraphPGD(graph, images_NCHW, source=f"the classifier of {bundle.path}")
    except (ImportError, PurifyError) as error:
        logger.info("PGD is not offered: %s", error)
        return None
    return attack
