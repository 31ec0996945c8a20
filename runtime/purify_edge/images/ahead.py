"""Work done ahead by threads, within bounds and in order: what decodes images while the engine runs."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

PATIENCE_S = 5  # for threads to end; one may wait for a camera that gives nothing


def ahead(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    batch: int,
    threads: int = 1,
    eager: bool = False,
    most: int | None = None,
) -> Generator[list[R], None, None]:
    """Yield the function's results for the items, in order, as lists of `batch` of them; the last may be shorter.

    Threads of their own ask for items, one at a time, and call the function, until `most` results are ready. They start
    with the first list that is requested, and end with the generator.

    Args:
        function: called in several threads at once.
        items: iterated in these threads, but by one of them at a time.
        batch, threads: results a list, and threads that call the function.
        eager: give what is ready rather than wait for a whole list; for items that come at a pace of their own.
        most: results that wait to be taken, two lists of them unless it is said.

    Raises:
        Exception: what the function or the iterable raises, in its place: the results before it are given first.
    """
    work = _Work(function, iter(items), bound=most or 2 * batch, threads=threads)
    workers = [threading.Thread(target=work.run, name=f"ahead-{index}", daemon=True) for index in range(threads)]
    for worker in workers:
        worker.start()
    try:
        while results := work.take(batch, at_least=1 if eager else batch):
            failures = [index for index, result in enumerate(results) if isinstance(result, _Failure)]
            good = results[: failures[0]] if failures else results
            if good:
                yield good  # type: ignore[misc]  # no failure is among them
            if failures:
                raise results[failures[0]].error  # type: ignore[union-attr]
    finally:
        work.stop()
        for worker in workers:
            worker.join(PATIENCE_S)


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class _Work(Generic[T, R]):
    """What the threads share: results by the items' numbers, and how many of them are wanted."""

    def __init__(self, function: Callable[[T], R], items: Iterator[T], *, bound: int, threads: int) -> None:
        self._function, self._items, self._threads = function, items, threads
        self._room = threading.Semaphore(bound)
        self._asking = threading.Lock()
        self._changed = threading.Condition()
        self._results: dict[int, R | _Failure] = {}
        self._asked = 0  # items taken from the iterator
        self._given = 0  # results handed out
        self._ready = 0  # results that follow those without a gap
        self._wanted = 1
        self._ended = False

    def run(self) -> None:
        """Work until there is nothing left to do."""
        while True:
            self._room.acquire()
            with self._asking:
                if self._ended:
                    return
                number = self._asked
                try:
                    item = next(self._items)
                except StopIteration:
                    return self.stop()
                except BaseException as error:
                    self._asked += 1
                    self._put(number, _Failure(error))
                    return self.stop()
                self._asked += 1
            try:
                result: R | _Failure = self._function(item)
            except BaseException as error:
                result = _Failure(error)
            self._put(number, result)

    def _put(self, number: int, result: R | _Failure) -> None:
        with self._changed:
            self._results[number] = result
            while self._given + self._ready in self._results:
                self._ready += 1
            if self._ready >= self._wanted or self._complete():
                self._changed.notify()

    def _complete(self) -> bool:
        return self._ended and self._given + self._ready == self._asked

    def take(self, most: int, *, at_least: int) -> list[R | _Failure]:
        """Return the next results, as soon as there are so many or no more will come."""
        with self._changed:
            self._wanted = at_least
            self._changed.wait_for(lambda: self._ready >= at_least or self._complete())
            count = min(most, self._ready)
            results = [self._results.pop(self._given + index) for index in range(count)]
            self._given += count
            self._ready -= count
        if count:
            self._room.release(count)
        return results

    def stop(self) -> None:
        """Ask for no more items; threads that wait for room go home."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._room.release(self._threads)
