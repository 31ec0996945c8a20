import numpy as np
import pytest

from purify_edge.errors import InputError
from purify_toolkit.networks.class_order import check_order

NUMBERS = tuple(map(str, range(12)))
ANIMALS = ("bee", "cat", "cow", "dog", "eel", "fox", "gnu", "hen", "ibex", "jay")


def answers(labels: np.ndarray, right: float, classes: int, order: list[int] | None = None) -> np.ndarray:
    """What a classifier says that is right on a fraction of the images, and whose outputs have another order."""
    random = np.random.default_rng(1)
    said = np.where(random.random(len(labels)) < right, labels, random.integers(0, classes, len(labels)))
    return said if order is None else np.argsort(order)[said]


def labels_of(count: int, classes: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, classes, count)


def test_the_order_of_numbers_as_text_is_recognised() -> None:
    labels = labels_of(240, 12)
    as_text = [NUMBERS.index(name) for name in sorted(NUMBERS)]
    with pytest.raises(InputError) as caught:
        check_order(answers(labels, 1, 12, as_text), labels, NUMBERS)
    assert "but on 100.0% if its classes are in another order: output 2 is '10', not '2', " in str(caught.value)
    assert "and 7 more. That is their order as text, as torchvision's ImageFolder has them. " in str(caught.value)
    assert "(00-0, 01-1, 02-10 and 9 more)" in str(caught.value)


@pytest.mark.parametrize(
    ("order", "right", "count"),
    [
        ([1, 0, *range(2, 10)], 1.0, 400),  # two are exchanged: right on 80%
        ([*range(1, 10), 0], 0.3, 2000),  # a poor one, from another count
        ([*range(9, -1, -1)], 0.8, 100),
    ],
)
def test_another_order_is_refused(order: list[int], right: float, count: int) -> None:
    labels = labels_of(count, 10)
    with pytest.raises(InputError, match=r"in another order: output \d is '\w+', not '\w+', "):
        check_order(answers(labels, right, 10, order), labels, ANIMALS)


@pytest.mark.parametrize(("right", "count"), [(1.0, 40), (0.9, 2000), (0.3, 2000), (0.1, 200), (0.0, 2000), (0.0, 20)])
@pytest.mark.parametrize("classes", [2, 10, 500])
def test_no_order_is_found_in_answers_that_are_only_poor(right: float, count: int, classes: int) -> None:
    labels = labels_of(count, classes)
    check_order(answers(labels, right, classes), labels, tuple(f"class {k}" for k in range(classes)))


def test_a_class_that_is_mostly_taken_for_another_is_no_other_order() -> None:
    labels = labels_of(2000, 10)
    said = answers(labels, 0.9, 10)
    said[(labels == 3) & (np.arange(2000) % 3 > 0)] = 5  # two thirds of the dogs are foxes to it
    check_order(said, labels, ANIMALS)
