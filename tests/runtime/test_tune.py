import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from purify_edge.engines import tune as module
from purify_edge.engines.tune import (
    ALL,
    BATCHES,
    TABLE,
    Choice,
    Setting,
    candidates,
    choose,
    cores,
    one_core_busy,
    tune,
)

FAST, SLOW, BOTH = Setting("onnxruntime", 2), Setting("openvino", 1), Setting("onnxruntime", 1, workers=2)
SHAPE = (1, 4, 4)


def test_the_table_is_filled_in_for_the_machine_without_repetition() -> None:
    four = candidates(["onnxruntime", "openvino"], 4)
    assert len(four) == len(TABLE)
    assert {setting.threads for setting in four} == {1, ALL}
    assert {setting.workers for setting in four} == {1, 4}
    assert {setting.host.threads for setting in four} == {1, None}
    one = candidates(["onnxruntime"], 1)
    assert {setting.engine for setting in one} == {"onnxruntime"}
    assert len(one) == len(set(one)) == 2  # awake within a call, never


class Clock:
    """A clock that candidates turn on, so that this machine's other programs decide nothing."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def perf_counter_ns(self) -> int:
        return round(self.now * 1e9)

    def opener(
        self, seconds_of: Callable[[Setting, int], float], opened: list[Setting], opening: float = 0.0
    ) -> Callable[[Setting], Any]:
        """Opens calls that take as long as a function of setting and batch says."""

        def open_(setting: Setting) -> Callable[[Any], None]:
            opened.append(setting)
            self.now += opening

            def call(x: Any) -> None:
                self.now += seconds_of(setting, len(x))

            return call

        return open_


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def test_each_size_of_batch_gets_what_is_the_fastest_for_it(clock: Clock) -> None:
    def seconds(setting: Setting, batch: int) -> float:
        if setting.graph == "chained":
            return 0.004 if batch == 1 else 0.001  # for one image composing pays, for more it does not
        return 0.002 if (setting == FAST) == (batch == 1) else 0.0035

    found = tune(clock.opener(seconds, []), [SLOW, FAST], SHAPE, budget_s=1)
    assert [found[batch].choice.logits.engine for batch in BATCHES] == [FAST.engine, SLOW.engine, SLOW.engine]
    assert [found[batch].choice.logits.graph for batch in BATCHES] == ["composed", "chained", "chained"]
    assert {found[batch].choice.both.graph for batch in BATCHES} == {"chained"}
    assert found[1].calm_ms == pytest.approx(2)
    assert clock.now < 1.1


def test_what_is_the_fastest_as_one_graph_need_not_be_the_fastest_as_two(clock: Clock) -> None:
    opened: list[Setting] = []

    def seconds(setting: Setting, batch: int) -> float:
        composed = {FAST: 0.0010, SLOW: 0.0012, BOTH: 0.0014}
        chained = {FAST.engine: 0.0030, SLOW.engine: 0.0015}
        return chained[setting.engine] if setting.graph == "chained" else composed[setting]

    found = tune(clock.opener(seconds, opened), [FAST, SLOW, BOTH], SHAPE, budget_s=1)
    for batch in BATCHES:
        assert found[batch].choice.logits == FAST
        assert (found[batch].choice.both.engine, found[batch].choice.both.graph) == (SLOW.engine, "chained")
        assert found[batch].calm_ms == pytest.approx(1)


def test_chained_graphs_that_take_long_to_open_do_not_break_the_time(clock: Clock) -> None:
    names = candidates(["onnxruntime", "openvino"], 2)
    found = tune(clock.opener(lambda *_: 1e-3, [], 0.2), names, SHAPE, budget_s=1)
    assert clock.now < 1.8  # one chained pair a size of batch, even where there is no time for it
    assert {found[batch].choice.both.graph for batch in BATCHES} == {"chained"}


def test_a_larger_batch_is_tried_first_with_what_won_before_it(clock: Clock) -> None:
    last = Setting("openvino", 1, workers=2)
    names = [setting for setting in candidates(["onnxruntime", "openvino"], 2) if setting != last] + [last]

    def seconds(setting: Setting, batch: int) -> float:
        same = setting.engine == last.engine and setting.workers == last.workers
        return batch * (0.5e-3 if same else 0.9e-3)

    found = tune(clock.opener(seconds, []), names, SHAPE, budget_s=1)
    assert found[64].choice.logits == last  # although there is time for a few of them only


@pytest.mark.parametrize("image_seconds", [1e-4, 5e-4, 5e-3, 0.02])
def test_it_keeps_to_its_time_and_takes_the_word_of_a_smaller_batch_for_a_model_that_is_slow(
    clock: Clock, image_seconds: float
) -> None:
    found = tune(clock.opener(lambda _, batch: image_seconds * batch, []), [FAST, SLOW, BOTH], SHAPE, budget_s=1)
    assert clock.now < 1.7
    assert set(found) == set(BATCHES)
    if image_seconds > 1e-3:
        assert found[64] == found[8]
    else:
        assert found[64].calm_ms == pytest.approx(64e3 * image_seconds)


def test_a_model_that_takes_long_to_open_is_tried_in_fewer_ways(clock: Clock) -> None:
    opened: list[Setting] = []
    found = tune(clock.opener(lambda _, batch: 1e-3 * batch, opened, 0.3), [FAST, SLOW, BOTH], SHAPE, budget_s=0.6)
    assert BOTH not in opened
    assert found[1].choice.logits.engine in (FAST.engine, SLOW.engine)


def test_what_loses_much_when_a_core_is_taken_is_not_chosen() -> None:
    assert choose({FAST: 1.0, SLOW: 1.5}, {FAST: 4.0, SLOW: 2.0}) == [SLOW]
    assert choose({SLOW: 1.5, FAST: 1.0}, {FAST: 2.4, SLOW: 2.0}) == [FAST, SLOW]


def test_a_core_is_really_kept_busy_and_let_go() -> None:
    start, deadline = time.process_time(), time.monotonic() + 30
    with one_core_busy():
        while time.process_time() - start < 0.1:  # soon, but where other programs have most of the machine
            assert time.monotonic() < deadline
            time.sleep(0.01)
    after = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - after < 0.05


def test_settings_are_told_in_words() -> None:
    assert str(Setting("onnxruntime", 2, "call")) == "onnxruntime, 2 threads, awake within a call, composed"
    assert str(Setting("onnxruntime", ALL)) == "onnxruntime, all cores, composed"
    assert str(Setting("openvino", 1, workers=2, graph="chained")) == "openvino, 1 thread, 2 calls at once, chained"
    pinned = Setting("openvino", ALL, pinned=True)
    assert str(pinned) == "openvino, all cores, pinned, composed"
    chained = Setting("openvino", ALL, graph="chained")
    assert str(Choice(pinned, chained)) == f"{pinned}, for purified images {chained}"
    assert str(Choice(chained, chained)) == str(chained)


def test_the_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert cores() == 3
    assert np.isfinite(cores())
