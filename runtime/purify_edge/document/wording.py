"""Numbers, intervals and lists as documents write them."""

from collections.abc import Iterable
from datetime import datetime, timezone

from purify_edge.document.model import Estimate


def percent(share: float | None) -> str:
    """Return a share as a percentage without its sign; nothing for None.

    >>> percent(0.91563), percent(None)
    ('91.6', '')
    """
    return "" if share is None else f"{100 * share:.1f}"


def interval(low: float, high: float) -> str:
    r"""Return the bounds of an interval of shares, in percent.

    >>> interval(0.91, 0.9209) == "91.0\N{EN DASH}92.1"
    True
    """
    return f"{percent(low)}\N{EN DASH}{percent(high)}"


def with_interval(share: float, bounds: tuple[float, float]) -> Estimate:
    """Return a share with its interval, in percent.

    >>> print(with_interval(0.5, (0.5, 0.5)).number)
    50.0
    """
    return Estimate(percent(share), interval(*bounds))


def moment(iso: str) -> str:
    """Return a time in UTC to the minute; a text that is no time is returned as it is.

    >>> moment("2026-11-24T15:10:38+00:00"), moment("yesterday")
    ('2026-11-24 15:10 UTC', 'yesterday')
    """
    try:
        return datetime.fromisoformat(iso).astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError):
        return iso


def milliseconds(value: float) -> str:
    """Return a time with three digits.

    >>> [milliseconds(value) for value in (0.08153, 1.239, 45.16, 1234.5)]
    ['0.0815', '1.24', '45.2', '1234']
    """
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def plural(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun.

    >>> plural(1, "limit"), plural(2000, "image"), plural(2, "class", "classes")
    ('1 limit', '2,000 images', '2 classes')
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def in_words(names: Iterable[str]) -> str:
    """Return a list as people write it.

    >>> in_words(["a"]), in_words(["a", "b", "c"]), in_words([])
    ('a', 'a, b and c', '')
    """
    *first, last = [*names] or [""]
    return f"{', '.join(first)} and {last}" if first else last
