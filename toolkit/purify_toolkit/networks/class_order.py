"""Whether a classifier has the classes of its data in another order."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from purify_edge.errors import InputError
from purify_toolkit.networks.weights import listed

SIGNIFICANT = 0.001
Labels = NDArray[np.int64]


def check_order(answers: Labels, labels: Labels, class_names: tuple[str, ...]) -> None:
    """Check that no other order of the classes explains a classifier's answers much better.

    The best order is looked for on half of the images, `[N]`, and judged on the others. It is much better where it
    is right on twice as many, or wrong on half as many at most, and not by chance.

    Raises:
        InputError: there is one.
    """
    order = _best_order(answers[::2], labels[::2], len(class_names))
    said, mapped, expected = answers[1::2], order[answers[1::2]], labels[1::2]
    before, after = said == expected, mapped == expected
    is_better = after.sum() >= 2 * before.sum() or (~after).sum() <= (~before).sum() / 2
    changed = after != before
    gained = int((after & changed).sum())
    chance = binomtest(gained, int(changed.sum()), alternative="greater").pvalue if gained else 1
    if is_better and chance < SIGNIFICANT:
        raise InputError(_message(order, class_names, float(before.mean()), float(after.mean()), len(expected)))


def _best_order(answers: Labels, labels: Labels, classes: int) -> Labels:
    """Return for each output the class under which most answers are right."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (answers, labels), 1)
    counts = 2 * counts + np.eye(classes, dtype=np.int64)  # as it is, where another order is no better
    found: Labels = linear_sum_assignment(counts, maximize=True)[1]
    return found


def _message(order: Labels, class_names: tuple[str, ...], before: float, after: float, count: int) -> str:
    return (
        f"the classifier is right on {100 * before:.1f}% of {count} validation images, but on {100 * after:.1f}% if "
        f"its classes are in another order: {_remedy(order, class_names)}"
    )


def _remedy(order: Labels, class_names: tuple[str, ...]) -> str:
    names = [class_names[label] for label in order]
    moved = [
        f"output {k} is {name!r}, not {class_names[k]!r}" for k, name in enumerate(names) if name != class_names[k]
    ]
    digits = len(str(len(names) - 1))
    renamed = [f"{k:0{digits}}-{name}" for k, name in enumerate(names)]
    as_text = ". That is their order as text, as torchvision's ImageFolder has them" if names == sorted(names) else ""
    return (
        f"{listed(moved)}{as_text}. Give the folders names that sort in the order of its outputs ({listed(renamed)}), "
        "or put the outputs of its last layer into the order of the classes"
    )
