"""How a published network wants its pictures: scaling, size and normalisation, as its library records them."""

from dataclasses import dataclass

from purify_edge.bundle.manifest import Preprocessing


@dataclass(frozen=True)
class PublishedInput:
    """What a library says about a network's input; `size` is height and width, `mean` and `std` are for [0, 1]."""

    preprocessing: Preprocessing
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
