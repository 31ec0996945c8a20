"""A clock that goes on only while somebody sleeps by it."""


class Clock:
    """Stands in for the module `time` in a module under test."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def monotonic(self) -> float:
        return self.now_s

    def perf_counter(self) -> float:
        return self.now_s

    def perf_counter_ns(self) -> int:
        return round(self.now_s * 1e9)


class TickingClock(Clock):
    """A clock that goes on a little each time that somebody looks, too."""

    TICK_S = 0.01

    def perf_counter(self) -> float:
        self.sleep(self.TICK_S)
        return self.now_s
