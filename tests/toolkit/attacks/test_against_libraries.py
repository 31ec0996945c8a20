"""Our attacks beside the libraries', on the pair that ships: same model, same images, same budget.

Where both start at the image they must agree image by image; where both draw a start of their own, or search at
random, their accuracies must agree within the tolerance that the test states.
"""

import foolbox
import pytest
import torch
from torch import Tensor, nn

from helpers.shipped import Shipped, generator
from purify_toolkit.attacks.carlini_wagner import CarliniWagner
from purify_toolkit.attacks.gradient import FGSM, PGD
from purify_toolkit.attacks.libraries import AutoAttack, Square
from purify_toolkit.attacks.norms import L1, L2, LINF, Norm
from purify_toolkit.attacks.search import RandomSearch

FOOLBOX_PGD = {"Linf": foolbox.attacks.LinfPGD, "L2": foolbox.attacks.L2PGD}
FOOLBOX_FGSM = {"Linf": foolbox.attacks.LinfFastGradientAttack, "L2": foolbox.attacks.L2FastGradientAttack}


def wrapped(model: nn.Module) -> foolbox.PyTorchModel:
    return foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")


@pytest.mark.parametrize(("norm", "epsilon"), [(LINF, 0.02), (L2, 0.3)], ids=["Linf", "L2"])
def test_one_step_gives_foolboxs_examples(shipped: Shipped, norm: Norm, epsilon: float) -> None:
    for model in (shipped.classifier, shipped.defended):
        images, labels = shipped.images[:20], shipped.labels[:20]
        theirs = FOOLBOX_FGSM[norm.name]().run(wrapped(model), images, labels, epsilon=epsilon)
        assert torch.allclose(
            FGSM(epsilon=epsilon, norm=norm)(model, images, labels, generator=generator()), theirs, atol=1e-5
        )


@pytest.mark.parametrize(("norm", "epsilon"), [(LINF, 0.02), (L2, 0.3)], ids=["Linf", "L2"])
def test_without_a_random_start_pgd_agrees_with_foolbox_image_by_image(
    shipped: Shipped, norm: Norm, epsilon: float
) -> None:
    """n = 40, 10 steps: the same verdict on 39 images at least; rounding may tip one that lies on the boundary."""
    model, images, labels = shipped.classifier, shipped.images[:40], shipped.labels[:40]
    attack = FOOLBOX_PGD[norm.name](rel_stepsize=0.2, steps=10, random_start=False)
    theirs = shipped.right(model, attack.run(wrapped(model), images, labels, epsilon=epsilon))
    found = PGD(epsilon=epsilon, steps=10, relative_step=0.2, norm=norm, random_start=False)(
        model, images, labels, generator=generator()
    )
    ours = shipped.right(model, found)
    assert 2 < theirs.sum() < 32
    assert (ours == theirs).sum() >= 39


def test_pgd_in_l1_is_no_weaker_than_foolboxs_sparse_descent(shipped: Shipped) -> None:
    """n = 60, 20 steps each; ours leaves at most 3 more right, of the 20 to 50 that theirs leaves."""
    model, images, labels = shipped.classifier, shipped.images[:60], shipped.labels[:60]
    attack = foolbox.attacks.SparseL1DescentAttack(rel_stepsize=0.25, steps=20, random_start=False)
    theirs = shipped.right(model, attack.run(wrapped(model), images, labels, epsilon=3.0))
    found = PGD(epsilon=3.0, steps=20, relative_step=0.25, norm=L1, random_start=False)
    ours = shipped.right(model, found(model, images, labels, generator=generator()))
    assert 5 < theirs.sum() < 50
    assert ours.sum() <= theirs.sum() + 3


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "epsilon", "count"), [(LINF, 0.02, 100), (L2, 0.3, 50)], ids=["Linf", "L2"])
def test_pgd_with_shrinking_steps_is_as_strong_as_apgd(
    shipped: Shipped, norm: Norm, epsilon: float, count: int
) -> None:
    """Within 2 points of n = 100 or 50: APGD-CE's standard budget is 100 gradients and one start; so is ours."""
    model, images, labels = shipped.classifier, shipped.images[:count], shipped.labels[:count]

    def right(found: Tensor) -> int:
        return int(shipped.right(model, found).sum())

    theirs = AutoAttack(epsilon=epsilon, norm=norm, classes=10, attacks=("apgd-ce",))(
        model, images, labels, generator=generator(0)
    )
    ours = PGD(epsilon=epsilon, steps=100, relative_step=1.0, norm=norm, decay=True)(
        model, images, labels, generator=generator()
    )
    assert abs(right(ours) - right(theirs)) <= count / 50, (right(ours), right(theirs))


@pytest.mark.slow
@pytest.mark.parametrize("defended", [False, True])
def test_carlini_and_wagners_distances_are_foolboxs(shipped: Shipped, defended: bool) -> None:
    """Same steps, rate and c: each distance within 5%, the median within 1%."""
    model = shipped.defended if defended else shipped.classifier
    count = 5 if defended else 12
    images, labels = shipped.images[:count], shipped.labels[:count]
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=5, steps=40, stepsize=0.02, initial_const=0.1, abort_early=False
    )
    theirs = attack.run(wrapped(model), images, labels)
    ours = CarliniWagner(steps=40, searches=5, rate=0.02, initial_c=0.1)(model, images, labels, generator=generator())
    right = shipped.right(model, images)
    assert not shipped.right(model, ours).any()
    assert not shipped.right(model, theirs).any()
    distances = [L2.size(found - images)[right] for found in (ours, theirs)]
    assert torch.allclose(*distances, rtol=0.05, atol=1e-3), distances
    assert distances[0].median() == pytest.approx(float(distances[1].median()), rel=0.01)


@pytest.mark.slow
def test_random_search_is_as_strong_as_square(shipped: Shipped) -> None:
    """n = 100, 150 queries: the seed moves either by 2 (standard deviation), so 8 points are allowed."""
    model, images, labels = shipped.classifier, shipped.images[:100], shipped.labels[:100]

    def right(found: Tensor) -> int:
        return int(shipped.right(model, found).sum())

    theirs = right(Square(epsilon=0.02, queries=150)(model, images, labels, generator=generator(0)))
    ours = right(RandomSearch(epsilon=0.02, queries=150)(model, images, labels, generator=generator()))
    assert theirs < right(images) - 20
    assert abs(ours - theirs) <= 8, (ours, theirs)
