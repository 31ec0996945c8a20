import msgspec
import pytest
import torch

from purify_toolkit.data.pixels import to_float
from purify_toolkit.device.processes import Processes
from purify_toolkit.recipe import AttackTable
from purify_toolkit.runs.pretrained import open_run
from purify_toolkit.train.examples import AdversarialPool, PoolState

ATTACK = AttackTable(epsilon_min=0.02, epsilon_max=0.1, steps=2, relative_step=0.5, refresh_epochs=3)
COUNT, BATCH = 60, 40
ALL = torch.arange(COUNT)


def new_pool(earlier: PoolState | None = None, attack: AttackTable = ATTACK) -> AdversarialPool:
    run = open_run(None)
    samples = run.load_samples()
    return AdversarialPool(
        samples.images[:COUNT],
        samples.labels[:COUNT],
        run.load_classifier(),
        attack,
        processes=Processes(torch.device("cpu")),
        earlier=earlier,
    )


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few images are more than one batch."""
    monkeypatch.setattr("purify_toolkit.train.examples.batch_size", lambda images, device=None: BATCH)


@pytest.fixture(scope="module")
def pool() -> AdversarialPool:
    return new_pool()


def refresh(pool: AdversarialPool, epoch: int) -> list[int]:
    return list(pool.refresh(pool.due(epoch, ALL), torch.Generator().manual_seed(epoch)))


def test_each_image_is_attacked_at_first_and_then_once_in_every_few_epochs(pool: AdversarialPool) -> None:
    assert pool.due(0, ALL).tolist() == list(range(COUNT))
    assert pool.due(0, torch.tensor([7, 3, 3])).tolist() == [3, 7]
    pool.versions.fill_(1)
    later = torch.cat([pool.due(epoch, ALL) for epoch in (1, 2, 3)])
    pool.versions.fill_(0)
    assert sorted(later.tolist()) == list(range(COUNT))


def test_the_examples_differ_from_the_images_by_epsilon_at_most(pool: AdversarialPool) -> None:
    clean = open_run(None).load_samples().images[:COUNT]
    assert refresh(pool, 0) == [BATCH, COUNT - BATCH]
    largest = (pool.examples.int() - clean.int()).abs().amax(dim=(1, 2, 3))
    assert largest.min() >= 0.02 * 255 - 1
    assert largest.max() <= 0.1 * 255 + 0.5
    assert len(largest.unique()) > 10  # radii of many sizes


def test_only_what_is_due_changes(pool: AdversarialPool) -> None:
    refresh(pool, 0)
    before = pool.examples.clone()
    refresh(pool, 1)
    changed = (pool.examples != before).flatten(1).any(dim=1).nonzero().flatten()
    assert changed.tolist() == pool.due(1, ALL).tolist()


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


def test_a_pool_that_is_handed_over_goes_on_without_attacking_everything() -> None:
    examples = open_run(None).load_samples().images[:COUNT].flip(3)
    pool = new_pool({"examples": examples.clone(), "versions": torch.ones(COUNT, dtype=torch.int64)})
    assert torch.equal(pool.examples, examples)
    due = pool.due(0, ALL)
    assert due.tolist() == list(range(0, COUNT, 3))
    assert sum(refresh(pool, 0)) == len(due)
    assert (pool.examples[due] != examples[due]).flatten(1).any(1).all()
    kept = torch.ones(COUNT, dtype=torch.bool).index_fill(0, due, False)
    assert torch.equal(pool.examples[kept], examples[kept])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_examples_is_made_by_one_step(share: float) -> None:
    """One step goes to the edge of the ball in nearly every pixel; many steps from a random start do not."""
    pool = new_pool(attack=msgspec.structs.replace(ATTACK, epsilon_min=0.1, single_step=share))
    clean = open_run(None).load_samples().images[:COUNT].int()
    refresh(pool, 0)
    moved = (pool.examples.int() - clean).abs()
    free = (clean > 26) & (clean < 229)
    at_the_edge = ((moved >= 25) & free).sum((1, 2, 3)) / free.sum((1, 2, 3))
    assert (at_the_edge > 0.97).float().mean().item() == pytest.approx(share, abs=0.1)


CROPPED = msgspec.structs.replace(ATTACK, crop=0.6)


def test_each_time_an_image_is_attacked_another_part_of_it_is_shown() -> None:
    pool, originals = new_pool(attack=CROPPED), open_run(None).load_samples().images[:COUNT]
    refresh(pool, 0)
    first = pool.images.clone()
    assert ((first != originals).flatten(1).any(1)).float().mean() > 0.9
    assert (pool.examples.int() - first.int()).abs().max() <= 0.1 * 255 + 0.5  # attacked as they are shown
    refresh(pool, 1)
    changed = (pool.images != first).flatten(1).any(1).nonzero().flatten()
    assert changed.tolist() == pool.due(1, ALL).tolist()
    assert torch.equal(open_run(None).load_samples().images[:COUNT], originals)


def test_a_pool_of_crops_hands_them_over() -> None:
    pool = new_pool(attack=CROPPED)
    refresh(pool, 0)
    later = new_pool(pool.state, CROPPED)
    assert torch.equal(later.images, pool.images)
    assert torch.equal(later.examples, pool.examples)
    assert "images" not in new_pool().state  # the originals, which every stage has
