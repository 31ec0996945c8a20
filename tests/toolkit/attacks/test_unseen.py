import pytest
import torch
from torch import nn

from helpers.shipped import Shipped, generator, hyperplane
from purify_toolkit.attacks.corruptions import Printed
from purify_toolkit.attacks.gradient import PGD, margin
from purify_toolkit.attacks.search import NoAttack, UniformNoise
from purify_toolkit.attacks.unseen import Colours, Patch, Universal

WEIGHT = torch.randn(1, 3, 8, 8, generator=generator(5))


def test_a_universal_perturbation_is_the_same_for_all_and_known_for_a_plane() -> None:
    images = torch.rand(6, 3, 8, 8, generator=generator()) * 0.5 + 0.25
    found = Universal(epsilon=0.1, steps=30)(
        hyperplane(WEIGHT), images, torch.zeros(6, dtype=torch.long), generator=generator()
    )
    torch.testing.assert_close(found - images, (-0.1 * WEIGHT.sign()).expand_as(images))


def test_a_universal_perturbation_breaks_what_noise_of_its_size_does_not(shipped: Shipped) -> None:
    model, images, labels = shipped.classifier, shipped.images, shipped.labels
    noise = UniformNoise(epsilon=0.1)(model, images, labels, generator=generator())
    found = Universal(epsilon=0.1)(model, images, labels, generator=generator())
    assert shipped.right(model, found).sum() < shipped.right(model, noise).sum() - 40


def test_a_patch_is_a_square_of_that_area_and_known_for_a_plane() -> None:
    images = torch.full((4, 3, 8, 8), 0.5)
    model = hyperplane(WEIGHT, offset=1000.0)  # never misclassified, so that it goes to the end
    found = Patch(area=0.25, steps=20)(model, images, torch.zeros(4, dtype=torch.long), generator=generator())
    for image in found:
        changed = (image != 0.5).all(0)
        rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
        assert (len(rows), len(columns), int(changed.sum())) == (4, 4, 16)
        assert ((image != 0.5).any(0) == changed).all()
        torch.testing.assert_close(image[:, changed], (WEIGHT[0] < 0).float()[:, changed])
    assert len({tuple((image != 0.5).any(0).flatten().tolist()) for image in found}) > 1


def test_a_patch_leaves_an_image_alone_once_it_is_misclassified() -> None:
    images, asked = torch.full((2, 3, 8, 8), 0.5), []

    def model(x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        return hyperplane(WEIGHT, offset=1000.0)(x)

    Patch(steps=3)(model, images, torch.tensor([0, 1]), generator=generator())
    assert asked == [2, 1, 1]


def test_patches_break_the_classifier(shipped: Shipped) -> None:
    model, images, labels = shipped.classifier, shipped.images[:40], shipped.labels[:40]
    found = Patch(area=0.1, steps=50)(model, images, labels, generator=generator())
    assert shipped.right(model, found).sum() < shipped.right(model, images).sum() - 10


def test_colours_change_each_channel_by_a_gain_and_an_offset_and_keep_the_worst() -> None:
    model = hyperplane(WEIGHT)
    images, labels = torch.rand(5, 3, 8, 8, generator=generator()) * 0.4 + 0.3, torch.zeros(5, dtype=torch.long)
    one, many = (Colours(tries=tries)(model, images, labels, generator=generator()) for tries in (1, 20))
    for image, found in zip(images, many, strict=True):
        for before, after in zip(image, found, strict=True):
            line = torch.stack([before.flatten(), torch.ones(64)], 1)
            gain, offset = torch.linalg.lstsq(line, after.flatten()).solution
            torch.testing.assert_close(gain * before + offset, after, rtol=0, atol=1e-4)
            assert abs(gain - 1) <= 0.3 + 1e-3
            assert abs(offset) <= 0.1 + 1e-3
    before, first, last = (margin(model(x), labels) for x in (images, one, many))
    assert (first >= before).all()
    assert (last >= first).all()
    assert last.mean() > first.mean()


def test_a_print_keeps_what_is_seen_and_takes_fine_changes_away() -> None:
    board = torch.arange(32).view(1, 1, 1, 32).add(torch.arange(32).view(1, 1, 32, 1)).remainder(2).float()
    images = torch.cat([torch.full((1, 1, 32, 32), 0.5), 0.4 + 0.2 * board])
    flat, fine = Printed(attack=NoAttack())(nn.Identity(), images, torch.zeros(2), generator=generator())
    assert (flat.mean() - 0.5).abs() < 0.01
    assert 0.005 < flat.std() < 0.03
    assert fine.std() < 0.5 * images[1].std()


def test_a_print_is_made_of_the_attacked_images(shipped: Shipped) -> None:
    model, images, labels = shipped.classifier, shipped.images[:60], shipped.labels[:60]
    pgd = PGD(epsilon=0.1, steps=10, relative_step=0.25)
    attacked = pgd(model, images, labels, generator=generator())
    printed = Printed(attack=pgd)(model, images, labels, generator=generator())
    assert (printed - attacked).abs().mean() < (printed - images).abs().mean()
    clean = Printed(attack=NoAttack())(model, images, labels, generator=generator())
    assert shipped.right(model, printed).sum() < shipped.right(model, clean).sum() - 10
    assert str(Printed(attack=pgd)) == f"{pgd}; then scaled by 0.75 and back, noise 0.02, JPEG of quality 80"
    assert Printed(attack=pgd).size is None


@pytest.mark.parametrize("area", [1e-6, 1.0])
def test_a_patch_has_a_pixel_at_least_and_the_image_at_most(area: float) -> None:
    images = torch.full((1, 3, 8, 8), 0.5)
    found = Patch(area=area, steps=1)(
        hyperplane(WEIGHT, offset=1000.0), images, torch.zeros(1, dtype=torch.long), generator=generator()
    )
    assert int((found != 0.5).any(1).sum()) == (1 if area < 1 else 64)
