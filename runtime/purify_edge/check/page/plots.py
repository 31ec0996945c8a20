"""Plots as inline SVG, 340 units wide: text is as large on a phone as on a desk. Shares and times begin at 0."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from xml.etree.ElementTree import Element

from purify_edge.bundle.report import CurvePoint, LatencyRow
from purify_edge.document.element import element

WIDTH = 340
LEFT, RIGHT, TOP = 38, 328, 12  # of the plotting area
HEIGHT = 150  # likewise
LATENCY_LEFT = 92
LINE = 18  # a row of the latency plot
CUT = 2.0  # the latency axis ends at so many times the largest p90: a lone p99 must not squeeze all others together


def ticks(high: float, count: int = 4) -> list[float]:
    """Return about `count` round numbers from 0 up to `high`.

    >>> ticks(0.93), ticks(45)
    ([0.0, 0.25, 0.5, 0.75], [0.0, 10.0, 20.0, 30.0, 40.0])
    """
    if not 0 < high < math.inf:
        return [0.0]
    rough = high / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 2.5, 5, 10)), key=lambda step: abs(math.log(step / rough)))
    return [float(f"{index * step:.6g}") for index in range(int(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """Return the powers of ten between two numbers above 0; where they are fewer than two, doubles and fives too.

    >>> decades(0.02, 30), decades(3, 30)
    ([0.1, 1.0, 10.0], [5.0, 10.0, 20.0])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5)):
        found = [float(f"{step}e{power}") for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) > 1:
            break
    return found


def latency_plot(rows: Sequence[LatencyRow]) -> Element:
    """Draw the median, 90th and 99th percentile of every stage; rows of an engine stand together."""
    high = min(max(row.p99_ms for row in rows), CUT * max(row.p90_ms for row in rows)) or 1.0
    y, parts = TOP, list[Element]()
    for (engine, precision), stages in groupby(rows, key=lambda row: (row.engine, row.precision)):
        parts.append(_text(0, y + 4, f"{engine} {precision}", class_="strong"))
        y += LINE
        for row in stages:
            parts += _latency_row(row, y, high)
            y += LINE
        y += 6
    bottom = y - LINE // 2
    grid = _x_axis(ticks(high), lambda value: _x(value, high, LATENCY_LEFT), bottom, "ms a batch")
    return _svg(bottom + 36, [*grid, *parts])


def _latency_row(row: LatencyRow, y: float, high: float) -> list[Element]:
    x50, x90, x99 = (_x(min(value, high), high, LATENCY_LEFT) for value in (row.p50_ms, row.p90_ms, row.p99_ms))
    beyond = row.p99_ms > high
    end = element("circle", cx=f"{x99:.1f}", cy=y, r=3, class_="hollow")
    if beyond:
        end = element("path", d=f"M{x99 - 6:.1f} {y - 4}l6 4l-6 4z", class_="mark")
    parts = [
        _text(8, y + 4, row.stage),
        element("line", x1=f"{x50:.1f}", x2=f"{x99:.1f}", y1=y, y2=y, class_="range"),
        end,
        element("line", x1=f"{x90:.1f}", x2=f"{x90:.1f}", y1=y - 5, y2=y + 5, class_="range"),
        element("circle", cx=f"{x50:.1f}", cy=y, r=3.5, class_="mark"),
    ]
    return [*parts, _text(x99 - 9, y - 5, f"{row.p99_ms:.3g}", "end", class_="small")] if beyond else parts


def curve_plot(lines: Mapping[str, Sequence[CurvePoint]], *, largest: float) -> Element:
    """Draw named lines of accuracy against the attack's size, up to the `largest`, with 95% intervals."""
    high = largest or 1.0
    parts = _percent_axis(1.0)
    bottom = TOP + HEIGHT
    parts += _x_axis(ticks(high), lambda size: _x(size, high), bottom, "size of the attack, pixels in [0, 1]")
    for number, (name, points) in enumerate(lines.items()):
        parts += _curve(sorted(points, key=lambda point: point.size), number, high)
        y = bottom + 52 + number * LINE
        parts += [_marker(LEFT + 6, y - 4, number), _text(LEFT + 18, y, name)]
    return _svg(bottom + 44 + LINE * len(lines), parts)


def _curve(points: Sequence[CurvePoint], number: int, high: float) -> list[Element]:
    places = [(_x(point.size, high), _y(point.accuracy)) for point in points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    bars = [
        element("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=f"{_y(low):.1f}", y2=f"{_y(top):.1f}", class_=f"line-{number}")
        for (x, _), (low, top) in zip(places, (point.ci95 for point in points), strict=True)
    ]
    return [element("path", d=path, class_=f"line-{number}"), *bars, *(_marker(x, y, number) for x, y in places)]


def _marker(x: float, y: float, number: int) -> Element:
    """Draw a circle or a square, so that the lines differ by more than their colour."""
    if number % 2 == 0:
        return element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3.5, class_=f"mark-{number}")
    return element("rect", x=f"{x - 3.5:.1f}", y=f"{y - 3.5:.1f}", width=7, height=7, class_=f"mark-{number}")


def histogram_plot(counts: Sequence[int], edges: Sequence[float], threshold: float, *, highest: float) -> Element:
    """Draw the share of images in each bin, with the threshold as a dashed line; the axis ends at the `highest` share.

    The edges, one more than the counts, grow by equal factors: bins are equally wide on the logarithmic axis.
    """
    total, low, high = sum(counts) or 1, edges[0], max(edges[-1], threshold)
    bottom, highest = TOP + HEIGHT, highest or 1.0

    def x(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * math.log(max(value, low) / low) / math.log(high / low)

    parts = _percent_axis(highest)
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        y = _y(count / total / highest)
        width = max(0.5, x(right) - x(left) - 1)
        place = {"x": f"{x(left):.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{bottom - y:.1f}"}
        parts.append(element("rect", **place, class_="bar above" if left >= threshold else "bar"))
    parts += _x_axis(decades(low, high), x, bottom, "suspicion score, logarithmic")
    line = x(threshold)
    side, anchor = (-4, "end") if line > (LEFT + RIGHT) / 2 else (4, "start")
    parts.append(element("line", x1=f"{line:.1f}", x2=f"{line:.1f}", y1=TOP - 4, y2=bottom, class_="threshold"))
    parts.append(_text(line + side, TOP + 4, f"threshold {threshold:.3g}", anchor))
    return _svg(bottom + 36, parts)


def _x(value: float, high: float, left: float = LEFT) -> float:
    return left + (RIGHT - left) * value / high


def _y(share: float) -> float:
    return TOP + HEIGHT * (1 - share)


def _percent_axis(highest: float) -> list[Element]:
    """Draw lines and labels for shares from 0 to `highest`."""
    parts = []
    for share in ticks(highest):
        y = f"{_y(share / highest):.1f}"
        parts.append(element("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(_text(LEFT - 5, float(y) + 4, f"{100 * share:g}%", "end"))
    return parts


def _x_axis(values: Iterable[float], x: Callable[[float], float], bottom: float, label: str) -> list[Element]:
    parts = []
    for value in values:
        place = f"{x(value):.1f}"
        parts.append(element("line", x1=place, x2=place, y1=TOP - 6, y2=bottom, class_="grid"))
        parts.append(_text(float(place), bottom + 14, f"{value:g}", "middle"))
    return [*parts, _text(RIGHT, bottom + 30, label, "end")]


def _text(x: float, y: float, content: str, anchor: str = "start", **attributes: object) -> Element:
    return element("text", content, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, **attributes)


def _svg(height: float, parts: Iterable[Element]) -> Element:
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {height:.0f}")
