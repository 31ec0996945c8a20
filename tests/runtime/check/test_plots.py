import itertools
from xml.etree.ElementTree import Element

import pytest

from helpers.reports import point, timed
from purify_edge.check.page import plots
from purify_edge.check.page.plots import (
    HEIGHT,
    LATENCY_LEFT,
    LEFT,
    RIGHT,
    TOP,
    curve_plot,
    histogram_plot,
    latency_plot,
)

BOTTOM = TOP + HEIGHT


def of_class(svg: Element, name: str, tag: str = "*") -> list[Element]:
    return [part for part in svg.iter() if part.get("class") == name and tag in ("*", part.tag)]


def texts(svg: Element) -> list[str]:
    return [part.text or "" for part in svg.iter("text")]


def test_latency_percentiles_lie_on_an_axis_from_0() -> None:
    svg = latency_plot([timed("e", "fp32", "pipeline", 1, 5, p90_ms=8, p99_ms=10)])
    (median,) = of_class(svg, "mark", "circle")
    (p99,) = of_class(svg, "hollow")
    stroke, p90 = of_class(svg, "range")
    width = RIGHT - LATENCY_LEFT
    assert float(median.get("cx", "")) == pytest.approx(LATENCY_LEFT + width * 0.5)
    assert float(p90.get("x1", "")) == pytest.approx(LATENCY_LEFT + width * 0.8, abs=0.1)
    assert float(p99.get("cx", "")) == RIGHT
    assert [stroke.get("x1"), stroke.get("x2")] == [median.get("cx"), p99.get("cx")]
    assert texts(svg)[:3] == ["0", "2.5", "5"]
    assert "ms a batch" in texts(svg)


def test_a_lone_slow_call_does_not_squeeze_the_others_and_is_told() -> None:
    rows = [timed("e", "fp32", "pipeline", 1, 5, p90_ms=8, p99_ms=10), timed("e", "fp32", "defended", 1, 4, p99_ms=900)]
    svg = latency_plot(rows)
    assert len(of_class(svg, "hollow")) == 1
    (arrow,) = of_class(svg, "mark", "path")
    assert f"M{RIGHT - 6:.1f}" in arrow.get("d", "")
    assert "900" in texts(svg)
    first, second = of_class(svg, "mark", "circle")
    high = plots.CUT * 8
    assert float(first.get("cx", "")) == pytest.approx(LATENCY_LEFT + (RIGHT - LATENCY_LEFT) * 5 / high, abs=0.1)
    assert float(second.get("cx", "")) < float(first.get("cx", ""))


def test_rows_of_an_engine_stand_under_its_name_and_do_not_touch() -> None:
    rows = [timed(engine, "fp32", stage, 1, 5) for engine in ("a", "b") for stage in ("pipeline", "defended")]
    svg = latency_plot(rows)
    assert [part.text for part in of_class(svg, "strong")] == ["a fp32", "b fp32"]
    heights = [float(mark.get("cy", "")) for mark in of_class(svg, "mark", "circle")]
    assert min(b - a for a, b in itertools.pairwise(heights)) >= plots.LINE
    assert float(svg.get("viewBox", "").split()[3]) > max(heights)


def test_accuracy_stands_on_an_axis_from_0_to_100_percent_with_intervals() -> None:
    points = [point("grey-box", size, right, defended=True) for size, right in ((0.4, 0), (0.0, 1000), (0.2, 500))]
    svg = curve_plot({"with purifier": points}, largest=0.4)
    marks = [mark for mark in of_class(svg, "mark-0") if float(mark.get("cy", "")) <= BOTTOM]
    places = [(float(mark.get("cx", "")), float(mark.get("cy", ""))) for mark in marks]
    assert places == [(LEFT, TOP), ((LEFT + RIGHT) / 2, TOP + HEIGHT / 2), (RIGHT, BOTTOM)]  # sorted, and to scale
    bars = of_class(svg, "line-0", "line")
    low, high = points[2].ci95
    assert float(bars[1].get("y1", "")) == pytest.approx(BOTTOM - HEIGHT * low, abs=0.1)
    assert float(bars[1].get("y2", "")) == pytest.approx(BOTTOM - HEIGHT * high, abs=0.1)
    assert {"0%", "100%", "with purifier", "size of the attack, pixels in [0, 1]"} <= set(texts(svg))


def test_lines_differ_by_more_than_colour() -> None:
    line = [point("grey-box", 0.1, 500, defended=True)]
    svg = curve_plot({"with purifier": line, "classifier alone": line}, largest=0.4)
    assert {mark.tag for mark in of_class(svg, "mark-0")} == {"circle"}
    assert {mark.tag for mark in of_class(svg, "mark-1")} == {"rect"}


def test_a_histogram_shows_shares_and_what_lies_above_the_threshold() -> None:
    svg = histogram_plot((60, 30, 10), (0.5, 1.0, 2.0, 8.0), 2.0, highest=0.6)
    below, above = of_class(svg, "bar"), of_class(svg, "bar above")
    heights = [float(bar.get("height", "")) for bar in (*below, *above)]
    assert heights == pytest.approx([HEIGHT, HEIGHT / 2, HEIGHT / 6], abs=0.1)
    (line,) = of_class(svg, "threshold")
    assert float(line.get("x1", "")) == (LEFT + RIGHT) / 2
    assert [float(bar.get("x", "")) for bar in above] == [(LEFT + RIGHT) / 2]
    assert {"threshold 2", "1", "2", "5", "suspicion score, logarithmic"} <= set(texts(svg))


def test_bins_that_grow_by_equal_factors_are_equally_wide() -> None:
    svg = histogram_plot((1, 1, 1), (0.1, 1.0, 10.0, 100.0), 200.0, highest=1.0)
    widths = {bar.get("width") for bar in of_class(svg, "bar")}
    assert len(widths) == 1
    assert [text for text in texts(svg) if text[0] in "01" and "%" not in text] == ["0.1", "1", "10", "100"]


def test_a_threshold_beyond_all_scores_is_still_on_the_plot() -> None:
    svg = histogram_plot((5,), (0.1, 1.0), 8.0, highest=1.0)
    (line,) = of_class(svg, "threshold")
    assert float(line.get("x1", "")) == RIGHT


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e9])
def test_any_size_of_figure_gives_a_plot(value: float) -> None:
    row = timed("e", "fp32", "pipeline", 1, 1.0, p90_ms=value, p99_ms=value)
    assert texts(latency_plot([row]))
    assert texts(curve_plot({"a": [point("grey-box", value, 5, defended=True)]}, largest=value))
    assert texts(histogram_plot((0, 0), (value / 2 + 1e-9, value + 1e-8, value + 1e-7), value, highest=0.0))
