"""What can be done to a picture before the pipeline sees it: noise, blur, stored attacks, Square and PGD."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from purify_edge.demo.gradient import GradientAttack
from purify_edge.demo.square import Logits, square_attack
from purify_edge.errors import InputError
from purify_edge.images.arrays import as_batch, to_8bit
from purify_edge.pipeline.pipeline import Pipeline

Pixels = NDArray[np.uint8]
QUERIES, SECONDS = 1000, 20.0
SEED = 0
PIXELS = "pixels go from 0 to 1"
WRONG_ALREADY = "Nothing to attack: the answer is wrong without an attack."

Tell = Callable[[int, int], None]
"""What an attack calls before each of its steps, with the step's number and the number of all."""


def quiet(step: int, steps: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A picture, uint8 `[H, W, C]`, and what attacks need besides.

    Attributes:
        pipeline: that the picture is for.
        stored, label: of an example, its stored attack and its class.
        tell: called before each step of an attack by the gradient.
    """

    image: Pixels
    pipeline: Pipeline
    stored: Pixels | None = None
    label: int | None = None
    tell: Tell = quiet


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """A disturbed picture, uint8 `[H, W, C]`, and a remark on the result where there is one."""

    image: Pixels
    note: str = ""


@dataclass(frozen=True)
class Trick:
    """A way to disturb a picture: what its size means, nothing where it has none, and the function."""

    size: str
    apply: Callable[[Victim, float], Disturbance]


def _nothing(victim: Victim, size: float) -> Disturbance:
    return Disturbance(image=victim.image)


def _stored(victim: Victim, size: float) -> Disturbance:
    if victim.stored is None:
        raise InputError("only the examples have a stored attack: choose an example, or another attack")
    return Disturbance(image=victim.stored)


def _noise(victim: Victim, size: float) -> Disturbance:
    noise = np.random.default_rng(SEED).normal(0, 255 * size, victim.image.shape)
    return Disturbance(image=(victim.image + noise).round().clip(0, 255).astype(np.uint8))


def _salt_and_pepper(victim: Victim, size: float) -> Disturbance:
    draw = np.random.default_rng(SEED).random(victim.image.shape[:2])[:, :, None]
    lost = np.where(draw < size / 2, 0, np.where(draw < size, 255, victim.image))
    return Disturbance(image=lost.astype(np.uint8))


def _blur(victim: Victim, size: float) -> Disturbance:
    height, width, channels = victim.image.shape
    picture = Image.fromarray(victim.image[:, :, 0] if channels == 1 else victim.image)
    blurred = picture.filter(ImageFilter.GaussianBlur(size * min(height, width)))
    return Disturbance(image=np.asarray(blurred).reshape(victim.image.shape))


def _square(target: Callable[[Victim], Logits], victim: Victim, size: float) -> Disturbance:
    x_CHW = as_batch(victim.image[None], victim.pipeline.input)[0]
    found = square_attack(
        target(victim), x_CHW, label=victim.label, epsilon=size, queries=QUERIES, seconds=SECONDS, seed=SEED
    )
    if found.queries == 1:
        return Disturbance(image=victim.image, note=WRONG_ALREADY)
    if not found.succeeded:
        return Disturbance(image=victim.image, note=f"The attack gave up after {found.queries:,} queries.")
    pixels = np.asarray(to_8bit(found.image)).reshape(victim.image.shape)
    return Disturbance(image=pixels, note=f"The attack took {found.queries:,} queries.")


def _square_on_classifier(victim: Victim, size: float) -> Disturbance:
    return _square(lambda asked: asked.pipeline.planned.classify, victim, size)


def _square_on_both(victim: Victim, size: float) -> Disturbance:
    return _square(lambda asked: asked.pipeline.planned.logits, victim, size)


def _pgd(attack: GradientAttack, victim: Victim, size: float) -> Disturbance:
    answer = int(victim.pipeline.classify(victim.image[None])[0].argmax())
    label = answer if victim.label is None else victim.label
    if answer != label:
        return Disturbance(image=victim.image, note=WRONG_ALREADY)
    x_CHW = as_batch(victim.image[None], victim.pipeline.input)[0]
    found = attack(x_CHW, label, epsilon=size, seed=SEED, tell=victim.tell)
    return Disturbance(image=np.asarray(to_8bit(found)).reshape(victim.image.shape))


PGD = "PGD on the classifier"
NONE, STORED = "None", "Stored attack of the example"
LARGEST = f"largest change of a pixel; {PIXELS}"
TRICKS = {
    NONE: Trick("", _nothing),
    STORED: Trick("", _stored),
    "Square attack on the classifier": Trick(LARGEST, _square_on_classifier),
    "Square attack on purifier and classifier": Trick(LARGEST, _square_on_both),
    "Noise": Trick(f"standard deviation; {PIXELS}", _noise),
    "Salt and pepper": Trick("share of the pixels that are lost", _salt_and_pepper),
    "Blur": Trick("standard deviation, as a share of the shorter side", _blur),
}
"""Name on the page -> the trick."""


def tricks_with(attack: GradientAttack | None) -> dict[str, Trick]:
    """Return the tricks, with PGD behind the stored attack where there is an attack by the gradient."""
    if attack is None:
        return TRICKS
    first = {name: TRICKS[name] for name in (NONE, STORED)}
    return first | {PGD: Trick(LARGEST, partial(_pgd, attack))} | TRICKS
