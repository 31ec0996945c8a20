import threading
import time
from collections.abc import Iterator

import pytest

from helpers.processes import wait_for
from purify_edge.images.ahead import ahead


def alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead-")]


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("eager", [False, True])
def test_results_keep_the_order_of_the_items(threads: int, eager: bool) -> None:
    def slow_for_some(number: int) -> int:
        time.sleep(0.002 if number % 7 == 0 else 0)
        return 10 * number

    lists = list(ahead(slow_for_some, range(100), batch=8, threads=threads, eager=eager))
    assert [result for results in lists for result in results] == [10 * number for number in range(100)]
    assert all(1 <= len(results) <= 8 for results in lists)
    if not eager:
        assert [len(results) for results in lists] == [8] * 12 + [4]
    assert alive() == []


def test_nothing_is_asked_for_before_it_is_wanted_and_no_more_than_two_lists_ahead() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            asked.append(number)
            yield number

    results = ahead(lambda number: number, items(), batch=4, threads=3)
    assert asked == []
    assert next(results) == [0, 1, 2, 3]
    wait_for(lambda: len(asked) >= 12)
    time.sleep(0.05)
    assert len(asked) == 12  # a list that was given, and two
    results.close()
    assert alive() == []


def test_no_more_results_wait_than_may() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            asked.append(number)
            yield number

    results = ahead(lambda number: number, items(), batch=1, eager=True, most=1)
    assert next(results) == [0]
    wait_for(lambda: len(asked) >= 2)
    time.sleep(0.05)
    assert len(asked) == 2
    results.close()


def test_work_goes_on_in_several_threads_at_once() -> None:
    barrier = threading.Barrier(3, timeout=300)
    results = ahead(lambda number: barrier.wait() >= 0, range(6), batch=6, threads=3)
    assert list(results) == [[True] * 6]


def test_eager_work_does_not_wait_for_a_whole_list() -> None:
    more = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        more.wait(300)
        yield 2

    results = ahead(lambda number: number, items(), batch=64, eager=True)
    assert next(results) == [1]
    more.set()
    assert list(results) == [[2]]


@pytest.mark.parametrize("where", ["function", "items"])
def test_what_is_raised_comes_in_its_place(where: str) -> None:
    def items() -> Iterator[int]:
        yield from range(10)
        if where == "items":
            raise ZeroDivisionError
        yield from range(10, 30)

    def function(number: int) -> int:
        return 1 // (10 - number) if where == "function" else number

    results = ahead(function, items(), batch=4, threads=2)
    found = []
    with pytest.raises(ZeroDivisionError):
        for few in results:
            found += few
    assert len(found) == 10
    assert alive() == []
