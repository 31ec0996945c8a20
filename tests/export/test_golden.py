import numpy as np
import pytest
import torch

from purify_edge.bundle.golden import GoldenSplit
from purify_export.convert.amounts import IMAGES
from purify_export.images.golden import golden_set
from purify_export.networks import Networks
from purify_toolkit.data.splits import Split
from purify_toolkit.runs.folder import RunFolder


@pytest.fixture(scope="module")
def golden(networks: Networks, shipped: RunFolder) -> tuple[dict[str, GoldenSplit], str]:
    samples = shipped.load_samples()
    return golden_set(networks, Split(samples.images, samples.labels), shipped.recipe.evaluation, seed=0)


def test_there_are_256_images_clean_attacked_and_noisy(golden: tuple[dict[str, GoldenSplit], str]) -> None:
    splits, attack = golden
    assert {name: len(split) for name, split in splits.items()} == {"clean": 256, "adversarial": 256, "noise": 256}
    assert attack == "PGD-20, Linf 0.1, step 0.0125, 1 random start, against the classifier alone, rounded to 8 bits"
    for split in splits.values():
        assert (split.images.dtype, split.images.shape) == (np.dtype(np.uint8), (IMAGES, 28, 28, 1))
        assert (split.purified.dtype, split.purified.shape) == (np.dtype(np.float32), (IMAGES, 1, 28, 28))
        assert split.classifier.shape == split.defended.shape == (IMAGES, 10)
        assert np.array_equal(split.labels, splits["clean"].labels)


def test_the_clean_images_are_the_samples(golden: tuple[dict[str, GoldenSplit], str], shipped: RunFolder) -> None:
    samples = shipped.load_samples()
    assert np.array_equal(golden[0]["clean"].images[..., 0], samples.images[:IMAGES, 0].numpy())
    assert np.array_equal(golden[0]["clean"].labels, samples.labels[:IMAGES].numpy())


def test_after_rounding_the_attacked_images_are_still_in_the_ball(golden: tuple[dict[str, GoldenSplit], str]) -> None:
    clean, adversarial, noisy = (split.images.astype(int) for split in golden[0].values())
    assert np.abs(adversarial - clean).max() == 25  # floor(0.1 * 255)
    change = noisy - clean
    assert np.abs(change).max() == 25
    inside = change[(clean >= 25) & (clean <= 230)]  # elsewhere 0 and 255 cut the noise off
    assert abs(inside.mean()) < 0.1
    assert abs(inside.std() - 0.1 * 255 / 3**0.5) < 0.2  # the standard deviation of a uniform distribution


def test_the_reference_is_what_pytorch_says(golden: tuple[dict[str, GoldenSplit], str], networks: Networks) -> None:
    for split in golden[0].values():
        images = torch.from_numpy(split.images[:16]).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            purified = networks.purifier(images)
            np.testing.assert_allclose(split.purified[:16], purified, atol=1e-5)
            np.testing.assert_allclose(split.defended[:16], networks.classifier(purified), atol=1e-3)
            np.testing.assert_allclose(split.classifier[:16], networks.classifier(images), atol=1e-3)
