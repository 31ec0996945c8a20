"""How the pictures of a training become its input: by flags, else by what the classifier's library records."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import msgspec

from purify_edge.bundle.manifest import Interpolation, Preprocessing, Resizing
from purify_edge.errors import InputError
from purify_toolkit.data.datasets import IMAGE_FOLDER
from purify_toolkit.data.published_input import PublishedInput
from purify_toolkit.recipe import parse_recipe, with_image_size

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PictureFlags:
    """What the command line says of pictures; None where it says nothing."""

    resize: Resizing | None = None
    crop: float | None = None  # the share of the scaled picture's sides that is kept
    interpolation: Interpolation | None = None
    antialias: bool | None = None
    fill: tuple[int, int, int] | None = None

    @property
    def given(self) -> str:
        """Return the names of the flags that were given, as the command line has them."""
        return ", ".join(f"--{field.name}" for field in fields(self) if getattr(self, field.name) is not None)

    def over(self, published: Preprocessing, size: Size | None) -> Preprocessing:
        """Return what applies: a flag counts more than what is published, for an input of a height and width.

        Raises:
            InputError: a crop of a size that is not known, or bicubic and others without antialiasing.
        """
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("interpolation", "antialias", "fill")
            if getattr(self, name) is not None
        }
        if self.resize is not None and self.resize != published.resize:
            given |= {"resize": self.resize, "scaled": None}
            given["rounding"] = "nearest" if self.resize == "letterbox" else "down"
        if self.crop is not None:
            if size is None:
                raise InputError("--crop is the share that is kept of a picture of a known size: give --size too")
            given["scaled"] = tuple(math.floor(side / self.crop) for side in size)
        try:
            return msgspec.structs.replace(published, **given)
        except ValueError as error:
            raise InputError(f"{error}: give --antialias, or --interpolation bilinear") from error


def settle(
    recipe_text: str,
    *,
    source: str,
    size: Size | None,
    flags: PictureFlags,
    published: Callable[[], PublishedInput | None] = lambda: None,
) -> tuple[str, Preprocessing]:
    """Return the recipe, with the size of the images where it is known by now, and how pictures become them.

    The size is that of the command line, else the recipe's, else the published one. Images that a dataset gives in one
    size stay as they are.

    Args:
        recipe_text: the recipe, in TOML.
        source: what errors call it.
        size: height and width that the command line asks for.
        flags: what else it asks for.
        published: gives what the classifier's library records; None where there is nothing.

    Raises:
        InputError: a faulty recipe; flags for a dataset of one size; or see `PictureFlags.over`.
    """
    recipe = parse_recipe(recipe_text, source=source)
    if recipe.dataset != IMAGE_FOLDER and flags.given:
        raise InputError(f"{flags.given}: for pictures of your own (dataset image-folder), not for {recipe.dataset}")
    if recipe.dataset != IMAGE_FOLDER:
        return recipe_text if size is None else with_image_size(recipe_text, size), Preprocessing()
    known = _known(published, enough=flags.resize is not None and (size or recipe.image_size) is not None)
    settled = size or recipe.image_size or known.size
    how = known.preprocessing
    if known.size is not None and settled is not None:
        how = how.for_size(known.size, settled)
    if settled is not None and settled != recipe.image_size:
        recipe_text = with_image_size(recipe_text, settled)
    return recipe_text, flags.over(how, settled)


def _known(published: Callable[[], PublishedInput | None], *, enough: bool) -> PublishedInput:
    """Return what is published; nothing where it cannot be followed, and flags say enough."""
    try:
        return published() or PublishedInput(Preprocessing())
    except InputError:
        if not enough:
            raise
        return PublishedInput(Preprocessing())
