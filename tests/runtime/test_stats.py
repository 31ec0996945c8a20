import pytest

from purify_edge.stats import wilson


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (5, 10), (10, 10), (9201, 10_000)])
def test_the_interval_is_scipys(successes: int, n: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert wilson(successes, n) == pytest.approx(stats.binomtest(successes, n).proportion_ci(method="wilson"))


def test_nothing_seen_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
