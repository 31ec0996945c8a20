import pytest

from purify_edge.stats import wilson

# successes, n and the bounds of scipy 1.17: binomtest(successes, n).proportion_ci(method="wilson")
KNOWN = [
    (0, 10, 0.0, 0.27753280),
    (5, 10, 0.23659309, 0.76340691),
    (10, 10, 0.72246720, 1.0),
    (9201, 10000, 0.91462304, 0.92525432),
]


@pytest.mark.parametrize(("successes", "n", "low", "high"), KNOWN)
def test_the_interval_is_the_textbooks(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-8)


def test_nothing_seen_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
