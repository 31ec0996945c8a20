"""A network of many outputs before folders of a few classes, and data without labels."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from purify_edge.errors import InputError
from purify_toolkit.data.folders.class_map import OutputNames, outputs_of, read_class_map, read_class_names
from purify_toolkit.data.splits import ImageData, Split
from purify_toolkit.networks.user_classifier import PixelClassifier, check_classifier
from purify_toolkit.runs.classes import in_classes_of

CPU = torch.device("cpu")
NAMES = ("tench, Tinca tinca", "gold_fish", "hen", "12")
IDS = ("n01440764", "n01443537", "n01514859", "n00000012")


def file(folder: Path, content: object) -> Path:
    (folder / "x").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "x"


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ("\n".join(NAMES) + "\n", ()),
        ([*NAMES], ()),
        ({str(index): name for index, name in reversed([*enumerate(NAMES)])}, ()),
        ({str(index): pair for index, pair in enumerate(zip(IDS, NAMES, strict=True))}, IDS),
    ],
    ids=["lines", "list", "id2label", "imagenet_class_index"],
)
def test_names_of_outputs_are_read(tmp_path: Path, content: object, ids: tuple[str, ...]) -> None:
    assert read_class_names(file(tmp_path, content)) == OutputNames(NAMES, ids)


@pytest.mark.parametrize("content", ["one\n", "{", [1, 2], {"0": "a", "2": "b"}, {"0": ["a", "b", "c"]}, "[]"])
def test_what_names_no_outputs_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(InputError, match=r"--class-names .*x does not name two outputs or more"):
        read_class_names(file(tmp_path, content))


@pytest.mark.parametrize(
    "content", [{"a": 2, "b": "tench"}, "folder,class\na,2\nb,tench\n", "a\t2\nb\ttench\n", 'b;tench\n"a";2\n']
)
def test_a_map_says_which_output_a_folder_is(tmp_path: Path, content: object) -> None:
    found = outputs_of(("a", "b"), OutputNames(NAMES), read_class_map(file(tmp_path, content)))
    assert found == {"a": 2, "b": 0}


@pytest.mark.parametrize("content", ["", "[1]", {}, {"a": [1]}, "a,1\na,2\n", "a,b,c\n"])
def test_what_is_no_map_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(InputError, match=r"--class-map .*x maps no class, or one twice"):
        read_class_map(file(tmp_path, content))


@pytest.mark.parametrize(
    ("folders", "class_map", "expected"),
    [
        (("Hen", "goldfish-"), None, "'goldfish-': none of the network's 4 outputs"),
        (("HEN", "gold fish", "tinca_tinca"), None, {"HEN": 2, "gold fish": 1, "tinca_tinca": 0}),
        (("n01443537", "n01440764"), None, {"n01443537": 1, "n01440764": 0}),
        (("2",), None, "'2': none"),  # an index only where a map says so
        (("cats", "dogs"), {"cats": "2", "dogs": "12"}, {"cats": 2, "dogs": 3}),
        (("cats", "kittens"), {"cats": 2, "kittens": 2}, {"cats": 2, "kittens": 2}),
        (("cats",), {"cats": 4}, "'4': none of the network's 4 outputs"),
        (("cats", "dogs"), {"cats": 1}, "has no line for 'dogs'"),
    ],
)
def test_folders_are_outputs(
    folders: tuple[str, ...], class_map: dict[str, str | int] | None, expected: object
) -> None:
    outputs = OutputNames(NAMES, IDS)
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            outputs_of(folders, outputs, class_map)
    else:
        assert outputs_of(folders, outputs, class_map) == expected


class Levels(nn.Module):
    """Six outputs, one for each range of brightness."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -10 * (x.mean((1, 2, 3))[:, None] - torch.linspace(0, 1, 6)).square()


def network(*names: str) -> PixelClassifier:
    built = PixelClassifier(Levels(), mean=torch.zeros(3), std=torch.ones(3)).eval()
    built.class_names = names
    return built


def data(*names: str) -> ImageData:
    """Images of two classes: brightness 3/5 and 1/5."""
    images = torch.tensor([153, 51], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4).repeat(4, 1, 1, 1)
    split = Split(images, torch.tensor([0, 1] * 4) if names else torch.zeros(8, dtype=torch.long))
    return ImageData("pets", names, split, split, split, unlabelled=not names)


@pytest.mark.parametrize(
    ("own", "folders", "class_map", "expected"),
    [
        ((), ("cat", "dog"), {"cat": 3, "dog": 1}, ("class 0", "dog", "class 2", "cat", "class 4", "class 5")),
        (tuple("uvwxyz"), ("cat", "dog"), {"cat": "x", "dog": 1}, tuple("uvwxyz")),
        (tuple("uvwxyz"), ("x", "v"), None, tuple("uvwxyz")),
    ],
)
def test_labels_become_the_networks_outputs(
    tmp_path: Path, own: tuple[str, ...], folders: tuple[str, ...], class_map: object, expected: tuple[str, ...]
) -> None:
    path = None if class_map is None else file(tmp_path, class_map)
    found = in_classes_of(network(*own), data(*folders), class_names=None, class_map=path, device=CPU)
    assert found.class_names == expected
    assert found.test.labels.tolist() == [3, 1] * 4
    assert found.class_map == {folders[0]: 3, folders[1]: 1}


def test_folders_of_other_names_are_the_outputs_in_their_order() -> None:
    given = data("cat", "dog")
    for own in ((), ("LABEL_0", "LABEL_1")):
        assert in_classes_of(network(*own), given, class_names=None, class_map=None, device=CPU) is given
    with pytest.raises(InputError, match=r"'cat', 'dog': none of the network's 6 outputs.*--class-map FILE says"):
        in_classes_of(network(*"uvwxyz"), given, class_names=None, class_map=None, device=CPU)


def test_without_labels_a_networks_answers_are_them() -> None:
    found = in_classes_of(network(), data(), class_names=None, class_map=None, device=CPU)
    assert found.class_names == tuple(f"class {index}" for index in range(6))
    assert found.train.labels.tolist() == [3, 1] * 4
    assert in_classes_of(network(*"uvwxyz"), data(), class_names=None, class_map=None, device=CPU).class_names[3] == "x"


@pytest.mark.parametrize(("by_name", "message"), [(True, "no better than its answers"), (False, "in another order")])
def test_no_other_order_is_looked_for_where_labels_go_by_names(by_name: bool, message: str) -> None:
    split = data("cat", "dog").test
    many = Split(split.images.repeat(10, 1, 1, 1), torch.tensor([1, 3] * 40))  # it answers 3, 1
    with pytest.raises(InputError, match=message):
        check_classifier(network(), many, tuple("uvwxyz"), CPU, by_name=by_name)
