import torch
from torch import nn

from helpers.shipped import Shipped, generator
from helpers.tiny import Quantising
from purify_toolkit.attacks.bpda import identity_backward
from purify_toolkit.attacks.gradient import PGD


def test_the_forward_pass_is_the_purifiers_and_the_backward_pass_the_identity(shipped: Shipped) -> None:
    purifier = shipped.defended[0]
    x = shipped.images[:4].clone().requires_grad_(True)
    purified = identity_backward(purifier)(x)
    weight = torch.randn(x.shape, generator=generator())
    (gradient,) = torch.autograd.grad((purified * weight).sum(), x)
    assert torch.equal(purified, purifier(x))
    assert torch.equal(gradient, weight)


def test_a_purifier_that_shatters_gradients_falls_to_bpda_only(shipped: Shipped) -> None:
    images, labels = shipped.images[:60], shipped.labels[:60]
    defended = nn.Sequential(Quantising(7), shipped.classifier)
    bypassed = nn.Sequential(identity_backward(Quantising(7)), shipped.classifier)

    def right(attacked_model: nn.Module) -> int:
        found = PGD(epsilon=0.1, steps=10, relative_step=0.25)(attacked_model, images, labels, generator=generator())
        return int(shipped.right(defended, found).sum())

    assert right(defended) >= 36  # the random start alone crosses some levels
    assert right(bypassed) <= 6
