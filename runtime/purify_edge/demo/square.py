"""The Square attack on what runs here: it asks for answers alone, so it needs neither gradients nor PyTorch.

After Andriushchenko et al. 2020 (arXiv 1912.00049), untargeted, Linf, with the margin of the logits as its loss.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Logits = Callable[[Array], Array]
"""Images float32 `[N, C, H, W]` in [0, 1] -> logits `[N, K]`."""

FIRST_SHARE = 0.8
HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
SCHEDULE = 10_000
"""Of so many steps, after which ones the share of the image that a square takes is halved."""


@dataclass(frozen=True)
class Search:
    """What the attack found: an image, float32 `[C, H, W]`, what it cost, and whether its class is another one."""

    image: Array
    queries: int
    succeeded: bool


def square_attack(
    logits: Logits, image_CHW: Array, *, label: int | None, epsilon: float, queries: int, seconds: float, seed: int
) -> Search:
    """Look for an image within epsilon that is called otherwise, one query a step.

    Args:
        logits: what is attacked.
        image_CHW: in [0, 1]; steps are whole 255ths, so that an image of 8 bits stays one.
        label: the class to get away from; None for the one that the image has. An image of another one stays.
        epsilon: the largest change of a pixel.
        queries: how many answers the search may ask for.
        seconds: how long it may take; the step under way is done.
        seed: of the search.
    """
    generator, until_s = np.random.default_rng(seed), time.monotonic() + seconds
    step = np.float32(round(255 * epsilon) / 255)
    answer = int(logits(image_CHW[None])[0].argmax())
    label = answer if label is None else label
    if answer != label:
        return Search(image_CHW, 1, True)
    shape = (image_CHW.shape[0], 1, image_CHW.shape[2])
    best = _moved(image_CHW, np.broadcast_to(_signs(generator, shape) * step, image_CHW.shape))
    lowest, asked = _margin(logits(best[None])[0], label), 2
    while lowest >= 0 and asked < queries and time.monotonic() < until_s:
        candidate = _with_square(image_CHW, best, step, _share(asked / queries), generator)
        margin, asked = _margin(logits(candidate[None])[0], label), asked + 1
        if margin < lowest:
            best, lowest = candidate, margin
    return Search(best if lowest < 0 else image_CHW, asked, lowest < 0)


def _with_square(image: Array, best: Array, step: np.float32, share: float, generator: np.random.Generator) -> Array:
    """Return the best image so far, in a square of which every channel is changed by the whole step, up or down."""
    channels, height, width = image.shape
    side = min(max(1, round(math.sqrt(share * height * width))), height, width)
    top, left = (int(generator.integers(0, length - side + 1)) for length in (height, width))
    place = (slice(None), slice(top, top + side), slice(left, left + side))
    candidate = best.copy()
    candidate[place] = _moved(image[place], _signs(generator, (channels, 1, 1)) * step)
    return candidate


def _share(done: float) -> float:
    return FIRST_SHARE / 2.0 ** sum(done * SCHEDULE > place for place in HALVED_AT)


def _signs(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return generator.choice(np.array([-1, 1], np.float32), size=shape)


def _moved(image: Array, change: Array) -> Array:
    moved: Array = np.clip(image + change, 0, 1)
    return moved


def _margin(logits: Array, label: int) -> float:
    """Return how far the label's logit is above the largest other one."""
    return float(logits[label] - np.delete(logits, label).max())
