import torch
from torch import Tensor

from helpers.shipped import Shipped, generator
from purify_toolkit.attacks.base import numpy_model
from purify_toolkit.attacks.gradient import margin
from purify_toolkit.attacks.search import GaussianNoise, RandomSearch, UniformNoise


def test_on_a_linear_model_random_search_nears_the_corner_of_the_ball() -> None:
    """The model is never misled, so the search goes on to its last query."""

    def model(images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3)) + 1
        return torch.stack([mean, -mean], dim=1)

    images, labels = torch.full((4, 3, 9, 12), 0.5), torch.zeros(4, dtype=torch.long)
    found = RandomSearch(epsilon=0.1, queries=2000)(model, images, labels, generator=generator())
    assert ((found - images).abs() <= 0.1 + 1e-6).all()
    assert (found - images).mean() < -0.09


def test_it_costs_no_query_more_than_it_may_and_stops_at_success(shipped: Shipped) -> None:
    asked: list[int] = []

    def counted(images: Tensor) -> Tensor:
        asked.append(len(images))
        return shipped.classifier(images)

    found = RandomSearch(epsilon=0.02, queries=30)(
        counted, shipped.images[:40], shipped.labels[:40], generator=generator()
    )
    assert len(asked) == 30
    assert asked == sorted(asked, reverse=True)
    assert asked[-1] < asked[0] == 40
    more = RandomSearch(epsilon=0.02, queries=1)(
        shipped.classifier, shipped.images[:40], shipped.labels[:40], generator=generator()
    )
    once, often = (margin(shipped.classifier(images), shipped.labels[:40]) for images in (more, found))
    assert (often >= once - 1e-5).all()  # batches of other sizes round otherwise
    assert (often > 0).sum() > (once > 0).sum()


def test_a_function_of_arrays_is_searched_like_the_model_itself(shipped: Shipped) -> None:
    def search(model: object) -> Tensor:
        return RandomSearch(epsilon=0.05, queries=20)(
            model, shipped.images[:10], shipped.labels[:10], generator=generator()
        )

    def function(array: object) -> object:
        assert array.dtype == "float32"
        with torch.no_grad():
            return shipped.classifier(torch.from_numpy(array)).numpy()

    found = search(numpy_model(function))
    assert torch.equal(found, search(shipped.classifier))
    assert not torch.equal(found, shipped.images[:10])


def test_noise_has_the_size_it_is_said_to_have() -> None:
    images = torch.full((20, 3, 16, 16), 0.5)
    uniform = UniformNoise(epsilon=0.3)(torch.nn.Identity(), images, torch.zeros(20), generator=generator()) - images
    normal = GaussianNoise(std=0.1)(torch.nn.Identity(), images, torch.zeros(20), generator=generator()) - images
    assert 0.299 < uniform.abs().max() <= 0.3 + 1e-6
    assert abs(float(uniform.std()) - 0.3 / 3**0.5) < 0.003
    assert abs(float(normal.std()) - 0.1) < 0.003
    assert abs(float(normal.mean())) < 0.003
