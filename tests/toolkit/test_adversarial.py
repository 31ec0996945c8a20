import pytest
import torch

from purify_toolkit.adversarial import AdversarialPool
from purify_toolkit.pixels import batch_size, to_float
from purify_toolkit.pretrained import open_run
from purify_toolkit.recipe import AttackTable

ATTACK = AttackTable(epsilon_min=0.02, epsilon_max=0.1, steps=2, relative_step=0.5, refresh_epochs=3)
COUNT = 600  # more than one batch


@pytest.fixture(scope="module")
def pool() -> AdversarialPool:
    run = open_run(None)
    samples = run.load_samples()
    device = torch.device("cpu")
    return AdversarialPool(samples.images[:COUNT], samples.labels[:COUNT], run.load_classifier(), ATTACK, device=device)


def refresh(pool: AdversarialPool, epoch: int) -> list[int]:
    return list(pool.refresh(epoch, torch.Generator().manual_seed(epoch)))


def test_each_image_is_attacked_at_first_and_then_once_in_every_few_epochs(pool: AdversarialPool) -> None:
    assert pool.due(0).tolist() == list(range(COUNT))
    later = torch.cat([pool.due(epoch) for epoch in (1, 2, 3)])
    assert sorted(later.tolist()) == list(range(COUNT))


def test_the_examples_differ_from_the_images_by_epsilon_at_most(pool: AdversarialPool) -> None:
    clean = open_run(None).load_samples().images[:COUNT]
    assert refresh(pool, 0) == [batch_size(clean), COUNT - batch_size(clean)]
    largest = (pool.examples.int() - clean.int()).abs().amax(dim=(1, 2, 3))
    assert largest.min() >= 0.02 * 255 - 1
    assert largest.max() <= 0.1 * 255 + 0.5
    assert len(largest.unique()) > 10  # radii of many sizes


def test_only_what_is_due_changes(pool: AdversarialPool) -> None:
    refresh(pool, 0)
    before = pool.examples.clone()
    refresh(pool, 1)
    changed = (pool.examples != before).flatten(1).any(dim=1).nonzero().flatten()
    assert changed.tolist() == pool.due(1).tolist()


def test_the_same_generator_gives_the_same_examples(pool: AdversarialPool) -> None:
    refresh(pool, 0)
    first = pool.examples.clone()
    refresh(pool, 0)
    assert torch.equal(pool.examples, first)


def test_the_examples_fool_the_classifier(pool: AdversarialPool) -> None:
    run = open_run(None)
    refresh(pool, 0)
    with torch.no_grad():
        said = run.load_classifier()(to_float(pool.examples)).argmax(dim=1)
    assert (said == run.load_samples().labels[:COUNT]).float().mean() < 0.4
