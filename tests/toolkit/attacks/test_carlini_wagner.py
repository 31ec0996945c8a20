import pytest
import torch
from torch import Tensor

from helpers.shipped import Shipped, generator, hyperplane
from purify_toolkit.attacks.carlini_wagner import CarliniWagner
from purify_toolkit.attacks.norms import L2


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_the_distance_found_is_the_one_to_the_hyperplane(scale: float) -> None:
    weight = torch.randn(1, 3, 4, 4, generator=generator(1))
    images = 0.5 + 0.1 * torch.rand(6, 3, 4, 4, generator=generator(2))
    side = ((images - 0.55) * weight).sum(dim=(1, 2, 3))
    model = hyperplane(weight * scale, -0.55 * scale * float(weight.sum()))
    labels = (side < 0).long()
    found = CarliniWagner(steps=200, searches=10, rate=0.01, initial_c=0.1)(
        model, images, labels, generator=generator()
    )
    distance, least = L2.size(found - images), side.abs() / weight.norm()
    assert (model(found).argmax(1) != labels).all()
    assert (distance >= least * 0.999).all()
    assert (distance <= least * 1.03 + 1e-3).all(), (distance, least)


def test_too_small_a_c_looks_robust_until_it_may_grow(shipped: Shipped) -> None:
    images, labels = shipped.images[:10], shipped.labels[:10]
    right = shipped.right(shipped.classifier, images)

    def attacked(binary_steps: int) -> Tensor:
        return CarliniWagner(steps=30, searches=binary_steps, rate=0.05, initial_c=1e-5)(
            shipped.classifier, images, labels, generator=generator()
        )

    # Adam's first steps go as far whatever c is, and so find the nearest few.
    assert shipped.right(shipped.classifier, attacked(1)).sum() >= 5
    found = attacked(8)
    assert not shipped.right(shipped.classifier, found).any()
    assert torch.equal(found[~right], images[~right])
    assert found.min() >= 0
    assert found.max() <= 1


def test_confidence_asks_for_a_lead() -> None:
    weight = torch.randn(1, 1, 4, 4, generator=generator(1))
    images, labels = torch.full((1, 1, 4, 4), 0.5), torch.tensor([0])
    model = hyperplane(weight, 0.5 - 0.5 * float(weight.sum()))
    found = CarliniWagner(steps=200, searches=6, rate=0.003, initial_c=0.1, confidence=1.0)(
        model, images, labels, generator=generator()
    )
    logits = model(found)[0]
    assert 1.0 < logits[1] - logits[0] < 1.1
