"""Lanes: which of several ways to do one kind of call is the fastest here and now, measured while they are used.

A choice that is made once, at a calm or a busy moment, is wrong at the next one. So a lane begins with the way that
stays good under load, lets the others take some of the first calls, and goes on to give each of them a call now and
then: so rarely that what they are slower costs a few per mille of the time. It changes over when another one has been
faster for a while. Every call is answered by whichever way takes it, so nothing is computed twice.
"""

from collections import deque
from collections.abc import Collection, Sequence
from statistics import fmean
from threading import Lock
from typing import NamedTuple

RACE_CALLS = 4
"""Calls that each way takes in a race; the first is not counted, because it may open engines."""
RACE_S = 1.0
"""Seconds after which a race ends."""
HOPELESS = 3.0
"""In a race, a way that took so many times as long as the best gets no more calls."""
KEPT, NEEDED = 15, 5
"""Times that are kept of each way, and that a way needs to be chosen."""
FASTER = 0.95
"""The ratio of usual times from which on another way counts as faster."""
SHARE = 0.004
"""What part of the time the trials of other ways may cost."""
LEAST_COST = 0.1
"""A trial is counted as at least so many calls' time, however fast the other way has been."""
DRIFT = 1.3
"""By so much the way that is taken must have become slower or faster for a new race to begin."""
REST_S = 1.0
"""Seconds of calls from the end of one race to the beginning of the next, at least."""


def usual(times: Collection[float]) -> float:
    """Return the mean without the longest fifth: a rare interruption says nothing, but a way that often waits is slow.

    >>> usual([1, 1, 9, 1, 1])
    1.0
    """
    return fmean(sorted(times)[: len(times) - len(times) // 5])


class Turn(NamedTuple):
    """A way that takes a call, and whether its time is to be counted."""

    way: int
    counted: bool


class Lane:
    """The ways to do one kind of call, on batches of about one size.

    Attributes:
        best: the way that takes most calls.

    Args:
        ways: how many there are; way 0 is the one to begin with.
    """

    def __init__(self, ways: int) -> None:
        self.best = 0
        self._times: list[deque[float]] = [deque(maxlen=KEPT) for _ in range(ways)]
        self._credit = [0.0] * ways
        self._turns: deque[Turn] = deque()
        self._lock = Lock()
        self._racing = False
        self._broken: set[int] = set()
        self._race_s = self._calls_s = self._level = 0.0
        if ways > 1:
            self._begin_race(range(ways))

    def turn(self) -> Turn:
        """Return which way takes the next call."""
        if len(self._times) == 1:
            return Turn(0, True)
        with self._lock:
            return self._turns.popleft() if self._turns else Turn(self.best, True)

    def took(self, turn: Turn, seconds: float, images: int = 1) -> None:
        """Note how long a call for so many images took; ways are compared by the time of an image."""
        if len(self._times) == 1:
            return
        with self._lock:
            if turn.way in self._broken:
                return
            if turn.counted:
                self._times[turn.way].append(seconds / images)
            if self._racing:
                self._go_on_with_race(turn, seconds, seconds / images)
            else:
                self._calls_s += seconds
                self._watch(turn, seconds / images)

    def others(self, way: int) -> list[int]:
        """Return the other ways, the one that takes most calls first."""
        with self._lock:
            left = [other for other in range(len(self._times)) if other != way and other not in self._broken]
            return sorted(left, key=lambda other: other != self.best)

    def broke(self, way: int) -> None:
        """Give a way that cannot run no more calls; another one must be left."""
        with self._lock:
            self._broken.add(way)
            self._times[way].clear()
            self._turns = deque(turn for turn in self._turns if turn.way != way)
            if self.best == way:
                self.best = next(other for other in range(len(self._times)) if other not in self._broken)
            if self._racing and not self._turns:
                self._end_race()

    def _begin_race(self, ways: Sequence[int]) -> None:
        self._racing, self._race_s = True, 0.0
        for way in ways:
            self._times[way].clear()
        self._turns = deque(Turn(way, turn > 0) for turn in range(RACE_CALLS) for way in ways)

    def _go_on_with_race(self, turn: Turn, seconds: float, image_s: float) -> None:
        self._race_s += seconds * turn.counted
        fastest = min((min(times) for times in self._times if times), default=image_s)
        if turn.counted and image_s > HOPELESS * fastest:
            self._turns = deque(other for other in self._turns if other.way != turn.way)
        if not self._turns or self._race_s > RACE_S:
            self._end_race()

    def _end_race(self) -> None:
        self._turns.clear()
        timed = [way for way, times in enumerate(self._times) if times]
        self.best = min(timed, key=lambda way: usual(self._times[way]), default=self.best)
        self._settle()

    def _settle(self) -> None:
        """Take the present speed as the level to which later calls are compared."""
        times = self._times[self.best]
        self._racing, self._level, self._calls_s = False, usual(times) if times else 0.0, 0.0

    def _watch(self, turn: Turn, seconds: float) -> None:
        if turn.way != self.best:
            self._consider(turn)
            return
        if not self._times[self.best]:  # many threads: the race ended before any of its counted calls
            return
        now = usual(self._times[self.best])
        if self._has_drifted(now):
            self._begin_race(self._contenders(now))
            return
        for way, times in enumerate(self._times):
            if way == self.best or way in self._broken:
                continue
            self._credit[way] += SHARE * seconds / (len(self._times) - 1)
            slower = usual(times) - now if times else now
            if not self._turns and self._credit[way] >= 2 * max(slower, LEAST_COST * now):
                self._credit[way] = 0.0
                self._turns.extend((Turn(way, False), Turn(way, True)))  # the first finds cold caches

    def _consider(self, turn: Turn) -> None:
        times = self._times[turn.way]
        if turn.counted and len(times) >= NEEDED:
            recent = list(times)[-NEEDED:]
            now = self._times[self.best]
            if not now or usual(recent) < FASTER * usual(now):
                self.best = turn.way
                self._settle()

    def _has_drifted(self, now: float) -> bool:
        rested = len(self._times[self.best]) == KEPT and self._calls_s > REST_S
        return rested and not self._level / DRIFT < now < self._level * DRIFT

    def _contenders(self, now: float) -> list[int]:
        """Return the ways that were not hopeless when they were last tried, the present one first."""
        others = [way for way, times in enumerate(self._times) if way != self.best and way not in self._broken]
        near = [way for way in others if not self._times[way] or usual(self._times[way]) < HOPELESS * now]
        return [self.best, *(near or others)]
