from pathlib import Path

import pytest

from helpers.small_data import RECIPE
from purify_edge.errors import InputError
from purify_toolkit.recipe import find_recipe, parse_recipe, read_recipe, shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    path = find_recipe(name)
    recipe = parse_recipe(path.read_text(), source=name)
    assert recipe.student.width <= recipe.teacher.width


def test_the_normal_teacher_may_be_another_network() -> None:
    table = RECIPE.split("[teacher]\n")[1].split("\n\n")[0].replace("width = 4", "width = 2\nbottleneck = 2")
    own = RECIPE.replace("[student]", f"[normal_teacher]\n{table}\n\n[student]")
    recipe, same = parse_recipe(own, source="own"), parse_recipe(RECIPE, source="same")
    assert recipe.purifier("normal_teacher").network == {"width": 2, "depth": 2, "blocks": 0, "bottleneck": 2}
    assert recipe.purifier("adversarial_teacher") == same.purifier("normal_teacher") == same.teacher
    assert recipe.same_teacher("adversarial_teacher", same)
    assert not recipe.same_teacher("normal_teacher", same)


def test_an_adversarial_teacher_is_the_same_where_its_own_guidance_is() -> None:
    taught, led, other = (
        parse_recipe(RECIPE.replace("classifier_guidance = 0.5", keys), source=keys)
        for keys in (
            "classifier_guidance = 0.0\nteacher_guidance = 0.5",
            "classifier_guidance = 0.5",
            "classifier_guidance = 0.0",
        )
    )
    assert taught.same_teacher("adversarial_teacher", led)
    assert not taught.same_teacher("adversarial_teacher", other)
    assert taught.same_teacher("normal_teacher", other)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no recipe 'fashion_mnist' \(did you mean 'fashion-mnist'\?\)"):
        find_recipe("fashion_mnist")
    with pytest.raises(InputError, match=r"no recipe 'absent\.toml'"):
        find_recipe("absent.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("imitation", "imitaton", r"unknown field `imitaton`.*did you mean 'imitation'"),
        ("dataset", "datset", r"unknown field `datset`.*did you mean 'dataset'"),
        ("[attack]", "[atack]", r"unknown field `atack`.*did you mean 'attack'"),
        ("[attack]", "[attack]\nqqq = 1", r"unknown field `qqq`.*; known here: epsilon_min"),
        ('dataset = "fashion-mnist"', 'dataset = "imagenet"', "Invalid enum value 'imagenet'"),
        ("refresh_epochs = 2", "", "missing required field `refresh_epochs`"),
        ("depth = 2", "depth = 9", r"`int` <= 5 - at `\$\.teacher\.depth`"),
        ("learning_rate = 1e-2", "learning_rate = 0", r"> 0\.0 - at `\$\.classifier\.learning_rate`"),
        ("epochs = 3", 'epochs = "3"', r"Expected `int`, got `str` - at `\$\.classifier\.epochs`"),
        ("epsilon_min = 0.01", "epsilon_min = 0.5", r"epsilon_min 0\.5 is above epsilon_max 0\.13"),
        ("[attack]", "[attack", "is not valid TOML"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(old: str, new: str, message: str) -> None:
    assert old in RECIPE
    with pytest.raises(InputError, match=f"r.toml.*{message}"):
        parse_recipe(RECIPE.replace(old, new, 1), source="r.toml")


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"dataset = \xff")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read_recipe(path)
