"""Lanes, driven by an imitated clock: each way takes as long as the test says."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from purify_edge.engines.lane import HOPELESS, RACE_CALLS, SHARE, Lane

Cost = Callable[[int], float]


def drive(lane: Lane, cost: Cost, seconds: float, images: int = 1) -> tuple[list[int], float]:
    """Make calls for so many imitated seconds: how many each way took, and how many seconds there were."""
    taken, now = [0] * 8, 0.0
    while now < seconds:
        turn = lane.turn()
        took = cost(turn.way)
        lane.took(turn, took, images)
        taken[turn.way] += 1
        now += took
    return taken, now


def fixed(*seconds: float) -> Cost:
    return lambda way: seconds[way]


@pytest.mark.parametrize("seconds", [(0.002, 0.001), (0.001, 0.002), (0.05, 0.04, 0.03, 0.06), (1e-4, 3e-4, 2e-4)])
def test_the_fastest_way_is_found_within_a_second_of_calls(seconds: Sequence[float]) -> None:
    lane = Lane(len(seconds))
    drive(lane, fixed(*seconds), 1.0)
    assert lane.best == seconds.index(min(seconds))


def test_the_first_call_of_a_way_is_not_held_against_it() -> None:
    """It opens engines, which takes far longer than the call."""
    opened: set[int] = set()

    def cost(way: int) -> float:
        first = way not in opened
        opened.add(way)
        return (0.002, 0.001)[way] + (0.5 if first and way == 1 else 0)

    lane = Lane(2)
    drive(lane, cost, 2.0)
    assert lane.best == 1


def test_a_hopeless_way_takes_two_calls_of_a_race() -> None:
    lane = Lane(2)
    taken = [0, 0]
    for _ in range(2 * RACE_CALLS):
        turn = lane.turn()
        taken[turn.way] += 1
        lane.took(turn, (0.001, 0.001 * HOPELESS * 1.1)[turn.way])
    assert taken[1] == 2
    assert lane.best == 0


@pytest.mark.parametrize("other", [1.01, 1.2, 2.0, 2.9, 10.0])
def test_trials_of_other_ways_cost_a_few_per_mille(other: float) -> None:
    lane = Lane(2)
    drive(lane, fixed(0.001, 0.001 * other), 1.0)
    taken, seconds = drive(lane, fixed(0.001, 0.001 * other), 60.0)
    assert taken[1] > 0  # it is still looked at
    assert taken[1] * 0.001 * (other - 1) / seconds < 2 * SHARE


@pytest.mark.parametrize("call", [0.0005, 0.04])
def test_it_changes_over_within_two_seconds_when_the_machine_becomes_busy_or_calm(call: float) -> None:
    """Way 0 uses all cores and suffers from others; way 1 uses one core and does not."""
    calm, busy = fixed(call, 1.5 * call), fixed(2.5 * call, 1.5 * call)
    lane = Lane(2)
    drive(lane, calm, 2.0)
    assert lane.best == 0
    drive(lane, busy, 2.0 * 2.5)
    assert lane.best == 1
    drive(lane, calm, 60.0 if call > 0.01 else 6.0)  # nothing tells that others have gone: trials must find out
    assert lane.best == 0


def test_large_batches_are_watched_as_closely_as_single_images() -> None:
    """Ways are compared by the time of an image, but races and rests last seconds of use."""
    lane = Lane(2)
    drive(lane, fixed(0.04, 0.16), 5.0, images=64)
    assert lane.best == 0
    drive(lane, fixed(0.10, 0.06), 5.0, images=64)
    assert lane.best == 1


def test_many_threads_may_take_the_turns_of_a_race_at_once() -> None:
    lane = Lane(2)
    turns = [lane.turn() for _ in range(3 * 2 * RACE_CALLS)]
    for turn in turns:
        lane.took(turn, (0.002, 0.001)[turn.way])
    drive(lane, fixed(0.002, 0.001), 3.0)
    assert lane.best == 1


def test_noise_does_not_move_it_to_a_slower_way() -> None:
    random = Random(0)
    lane = Lane(2)

    def noisy(way: int) -> float:
        return (0.001, 0.0013)[way] * (1 + 0.2 * random.random() + (3 if random.random() < 0.05 else 0))

    taken, _ = drive(lane, noisy, 60.0)
    assert taken[0] > 0.9 * sum(taken)


def test_threads_may_share_a_lane() -> None:
    lane = Lane(3)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: drive(lane, fixed(0.003, 0.001, 0.002), 2.0), range(8)))
    assert lane.best == 1


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_way_that_breaks_gets_no_more_calls(broken: int) -> None:
    lane = Lane(3)
    taken = [0, 0, 0]
    for _ in range(5000):
        turn = lane.turn()
        taken[turn.way] += 1
        if turn.way == broken:
            assert broken not in lane.others(broken)
            lane.broke(broken)
        else:
            lane.took(turn, (0.001, 0.002, 0.0015)[turn.way])
    assert taken[broken] == 1
    assert lane.best == (0 if broken else 2)
    assert broken not in lane.others(lane.best)
