import time

import pytest

from purify_edge.engines import latency
from purify_edge.engines.latency import WARMUP, Contestant, measure


def test_contestants_take_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    contestants = {Contestant("e", "fp32", stage, 1): (lambda stage=stage: calls.append(stage)) for stage in "abc"}
    rows = measure(contestants, rounds=4)
    assert "".join(calls) == "abc" * (WARMUP + 4)
    assert [row.stage for row in rows] == ["a", "b", "c"]
    assert all(row.n == 4 and row.warmup == WARMUP for row in rows)


def test_what_is_measured_is_the_time_of_the_call() -> None:
    (row,) = measure({Contestant("e", "fp32", "sleep", 8): lambda: time.sleep(0.01)}, rounds=5)
    assert 10 <= row.p50_ms < 20
    assert row.images_per_s == pytest.approx(8000 / row.p50_ms)
    assert row.p50_ms <= row.p90_ms <= row.p99_ms


def test_a_slow_machine_gets_fewer_rounds_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "BUDGET_S", 0.05)
    (row,) = measure({Contestant("e", "fp32", "sleep", 1): lambda: time.sleep(0.02)}, rounds=1000)
    assert 2 <= row.n <= 5
