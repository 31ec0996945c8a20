import pytest

from helpers.clock import Clock
from purify_edge.engines import latency
from purify_edge.engines.latency import WARMUP, Contestant, measure


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    return clock


def test_contestants_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    contestants = {Contestant("e", "fp32", stage, 1): (lambda stage=stage: calls.append(stage)) for stage in "abc"}
    rows = measure(contestants, rounds=4)
    assert "".join(calls) == "abc" * (WARMUP + 4)
    assert [row.stage for row in rows] == ["a", "b", "c"]
    assert all(row.n == 4 and row.warmup == WARMUP for row in rows)


def test_what_is_measured_is_the_time_of_the_call(clock: Clock) -> None:
    calls = iter([0.0] * WARMUP + [0.01, 0.02, 0.03, 0.04, 0.05])
    (row,) = measure({Contestant("e", "fp32", "sleep", 8): lambda: clock.sleep(next(calls))}, rounds=5)
    assert (row.p50_ms, row.mean_ms, row.p90_ms) == pytest.approx((30, 30, 46))
    assert row.images_per_s == pytest.approx(8000 / 30)
    assert row.p90_ms < row.p99_ms < 50


def test_a_slow_machine_gets_fewer_rounds_and_says_so(clock: Clock) -> None:
    (row,) = measure({Contestant("e", "fp32", "sleep", 1): lambda: clock.sleep(latency.BUDGET_S / 2.5)}, rounds=1000)
    assert (row.warmup, row.n) == (1, 3)
