"""What flags and libraries say of pictures, put together."""

from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from helpers.small_data import RECIPE
from purify_edge.bundle.manifest import Preprocessing
from purify_edge.errors import InputError
from purify_toolkit.data.published_input import PublishedInput
from purify_toolkit.recipe import parse_recipe
from purify_toolkit.runs.pictures import PictureFlags, settle
from purify_toolkit.train.cli import _request
from purify_toolkit.train.cli import main as train_command
from purify_toolkit.train.request import Request

OWN = RECIPE.replace('"fashion-mnist"', '"image-folder"')
PUBLISHED = PublishedInput(
    Preprocessing(resize="shortest", scaled=(256, 256), interpolation="bicubic", centre="down"), (224, 224)
)


@pytest.mark.parametrize(
    ("flags", "size", "expected"),
    [
        ({}, None, PUBLISHED.preprocessing),
        ({}, (112, 56), PUBLISHED.preprocessing.for_size((224, 224), (112, 56))),
        ({"interpolation": "box"}, None, {"interpolation": "box"}),
        ({"crop": 0.95}, None, {"scaled": (235, 235)}),
        ({"crop": 1.0}, None, {"scaled": (224, 224)}),
        ({"resize": "shortest"}, None, PUBLISHED.preprocessing),
        ({"resize": "stretch"}, None, {"resize": "stretch", "scaled": None}),
        (
            {"resize": "letterbox", "fill": (1, 2, 3), "crop": 0.5},
            (8, 9),
            {"resize": "letterbox", "fill": (1, 2, 3), "scaled": (16, 18), "rounding": "nearest"},
        ),
        ({"antialias": False, "interpolation": "nearest"}, None, {"antialias": False, "interpolation": "nearest"}),
    ],
)
def test_a_flag_counts_more_than_what_is_published(
    flags: dict[str, Any], size: tuple[int, int] | None, expected: Preprocessing | dict[str, Any]
) -> None:
    text, found = settle(OWN, source="mine", size=size, flags=PictureFlags(**flags), published=lambda: PUBLISHED)
    if isinstance(expected, dict):
        expected = msgspec.structs.replace(PUBLISHED.preprocessing, **expected)
    assert found == expected
    assert parse_recipe(text, source="mine").image_size == (size or (224, 224))


def test_the_recipes_size_counts_more_than_the_published_one() -> None:
    text = f"image_size = [112, 112]\n{OWN}"
    found, how = settle(text, source="mine", size=None, flags=PictureFlags(), published=lambda: PUBLISHED)
    assert (found, how.scaled) == (text, (128, 128))


def test_what_cannot_be_followed_is_no_matter_where_flags_say_enough() -> None:
    def published() -> PublishedInput:
        raise InputError("too odd")

    _, how = settle(OWN, source="mine", size=(8, 8), flags=PictureFlags(resize="stretch"), published=published)
    assert how == Preprocessing()
    for size, flags in (((8, 8), PictureFlags()), (None, PictureFlags(resize="stretch"))):
        with pytest.raises(InputError, match="too odd"):
            settle(OWN, source="mine", size=size, flags=flags, published=published)


def test_without_a_word_a_recipe_stays_as_it_is() -> None:
    assert settle(OWN, source="mine", size=None, flags=PictureFlags()) == (OWN, Preprocessing())
    assert settle(RECIPE, source="mine", size=None, flags=PictureFlags(), published=lambda: PUBLISHED) == (
        RECIPE,
        Preprocessing(),
    )


@pytest.mark.parametrize(
    ("flags", "text", "message"),
    [
        ({"crop": 0.8}, OWN, "give --size too"),
        ({"interpolation": "bicubic", "antialias": False}, OWN, "give --antialias, or --interpolation bilinear"),
        ({"resize": "shortest", "fill": (0, 0, 0)}, RECIPE, "--resize, --fill: for pictures of your own"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused(flags: dict[str, Any], text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        settle(text, source="mine", size=None, flags=PictureFlags(**flags))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--crop", "0"), "is not in the range 0.01<=x<=1"),
        (("--crop", "nan"), "is no number"),
        (("--resize", "squash"), "'squash' is not one of 'stretch', 'shortest', 'letterbox'"),
        (("--fill", "1,2"), "expected a level from 0 to 255, or three"),
        (("--fill", "256"), "expected a level from 0 to 255, or three"),
        (("--colour", "bgr"), "--std and --colour are those of your own classifier"),
        (("--resize", "shortest"), "for pictures of your own (dataset image-folder), not for fashion-mnist"),
    ],
)
def test_bad_flags_end_with_one_message(arguments: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(train_command, ["fashion-mnist", *arguments])
    assert done.exit_code == 2
    assert message in done.stderr


def asked(*arguments: str) -> Request:
    """What the command line asks for."""
    given = train_command.make_context("purify-train", ["image-folder", *arguments]).params
    return _request(**{name: value for name, value in given.items() if name != "as_json"})


def test_a_classifiers_library_says_how_its_pictures_are_made() -> None:
    published = asked("--classifier", "torchvision:resnet18:IMAGENET1K_V1")
    assert published.preprocessing == Preprocessing(resize="shortest", scaled=(256, 256))
    assert parse_recipe(published.recipe_text, source="it").image_size == (224, 224)
    flags = asked("--classifier", "torchvision:resnet18:IMAGENET1K_V1", "--resize", "letterbox", "--size", "96x96")
    assert flags.preprocessing == Preprocessing(resize="letterbox", rounding="nearest")
    assert asked().preprocessing == asked("--classifier", "torchvision:resnet18").preprocessing == Preprocessing()
