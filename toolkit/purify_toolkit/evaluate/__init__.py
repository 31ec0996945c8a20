"""Accuracy on test images, clean and attacked; the whole of `purify-eval` is in the modules below this one.

What training needs too is imported from here. `methods` and `threats` say what can be run, `measure` runs it and
keeps it, `gates` doubts it, `report` sums it up.
"""

from purify_toolkit.evaluate.accuracy import Row, attack, attack_name, evaluate

__all__ = ["Row", "attack", "attack_name", "evaluate"]
