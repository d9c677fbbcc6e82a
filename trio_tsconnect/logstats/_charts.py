"""Charts as SVG: pure functions from numbers to elements.

Invariant: every horizontal place is in percent and every vertical one in pixels. So a chart has the width of its place on the page, and
its text keeps its size on a narrow screen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trio_tsconnect.logstats import _scale
from trio_tsconnect.logstats._markup import Markup, join_markup, tag
from trio_tsconnect.logstats._scale import LogScale

_FEWEST_SLOTS = 20
_MOST_LABELS = 6
_LANE = 22.0
_LATENCY_HEIGHT = 190.0
_AXIS = 22.0
_TOP = 16.0


def percent(fraction: float) -> str:
    """Return a fraction of the width. A value outside of 0 to 1 is moved to the nearer end."""
    return f"{100 * min(max(fraction, 0.0), 1.0):.3f}%"


def chart(height: float, title: str, words: str, *content: Markup, class_: str = "") -> Markup:
    """Return an SVG as wide as its place, with a name and a description for readers who do not see it."""
    named = [tag("title", title), tag("desc", words)]
    return tag("svg", *named, *content, class_=f"chart {class_}".strip(), role="img", width="100%", height=f"{height:g}")


def bar(fraction: float, tone: str = "") -> Markup:
    """Return a lane with one bar from the left, and at least a trace of it if the value is not 0. The number is in the cell beside it."""
    least = "2" if fraction > 0 else "0"
    shapes = [
        tag("rect", class_="track", x="0", y="5", width="100%", height="12", rx="2"),
        tag("rect", class_=f"bar {tone}".strip(), x="0", y="5", width=least, height="12"),
        tag("rect", class_=f"bar {tone}".strip(), x="0", y="5", width=percent(fraction), height="12", rx="2"),
    ]
    return tag("svg", *shapes, class_="chart lane", aria_hidden="true", width="100%", height=f"{_LANE:g}")


# ---- latency by tag ----------------------------------------------------------------------------------------------------------


def latency_axis(scale: LogScale) -> Markup:
    """Return the labels of the axis that the lanes of `latency_range` share."""
    labels = [_label(scale.place(value), 12, _scale.tick_seconds(value)) for value in scale.ticks()]
    return tag("svg", *labels, class_="chart lane", aria_hidden="true", width="100%", height="16")


def latency_range(row: Mapping[str, Any], scale: LogScale) -> Markup:
    """Return a lane with the median, the range up to the 99th percentile, the 90th within it, and the longest."""
    at = {name: scale.place(row.get(name)) for name in ("p50", "p90", "p99", "max") if _scale.finite(row.get(name)) is not None}
    shapes = [_upright(scale.place(value), 0, _LANE, "grid") for value in scale.ticks()]
    first, last = at.get("p50"), at.get("p99")
    if "max" in at and last is not None:
        shapes.append(tag("line", class_="whisker", x1=percent(last), x2=percent(at["max"]), y1="11", y2="11"))
        shapes.append(_upright(at["max"], 7, 15, "whisker"))
    if first is not None and last is not None:
        shapes.append(tag("line", class_="range", x1=percent(first), x2=percent(max(first, last)), y1="11", y2="11"))
    if "p90" in at:
        shapes.append(_upright(at["p90"], 5, 17, "p90"))
    for name, radius in (("p99", "3"), ("p50", "5")):
        if name in at:
            shapes.append(tag("circle", class_=name, cx=percent(at[name]), cy="11", r=radius))
    return tag("svg", *shapes, class_="chart lane", aria_hidden="true", width="100%", height=f"{_LANE:g}")


# ---- over time ---------------------------------------------------------------------------------------------------------------


def latency_over_time(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Return a bar for each span of time from the median latency to the 99th percentile, on a log scale."""
    scale = LogScale.around(row.get(name) for row in rows for name in ("p50", "p99"))
    bottom = _LATENCY_HEIGHT - 6

    def height_of(value: object) -> float:
        return bottom - scale.place(value) * (bottom - _TOP)

    shapes = [_level(height_of(value), _scale.tick_seconds(value)) for value in scale.ticks()]
    for index, row in enumerate(rows):
        shapes += _latency_column(row, _column_place(index, rows), height_of)
    words = "; ".join(f"{row.get('start')}: {_scale.seconds(row.get('p50'))} to {_scale.seconds(row.get('p99'))}" for row in rows[:3])
    title = "Latency over time, from the median to the 99th percentile"
    return chart(_LATENCY_HEIGHT, title, f"{words} and so on; all values are in the table below.", *shapes)


def _latency_column(row: Mapping[str, Any], place: Mapping[str, str], height_of: Callable[[object], float]) -> list[Markup]:
    median, high = _scale.finite(row.get("p50")), _scale.finite(row.get("p99"))
    known = [height_of(value) for value in (median, high) if value is not None]
    if not known:
        return []
    words = f"{row.get('start')}: p50 {_scale.seconds(median)}, p99 {_scale.seconds(high)}"
    top, bottom = min(known), max(known)
    shapes = [tag("rect", tag("title", words), class_="band", **place, y=f"{top:.1f}", height=f"{bottom - top + 1:.1f}", rx="1.5")]
    if high is not None:
        shapes.append(tag("rect", class_="p99", **place, y=f"{height_of(high) - 1:.1f}", height="2", rx="1"))
    if median is not None:
        shapes.append(tag("rect", class_="p50", **place, y=f"{height_of(median) - 1.5:.1f}", height="3", rx="1"))
    return shapes


def counts_over_time(rows: Sequence[Mapping[str, Any]], name: str, height: float, tone: str = "", *, clock: bool = False) -> Markup:
    """Return a column for each span of time, as high as the count `name` of its row; with the times below if `clock` is set."""
    ticks = _scale.linear_ticks(max((_scale.finite(row.get(name)) or 0 for row in rows), default=0), 2)
    unit = (height - _TOP) / ticks[-1]
    shapes = [_level(height - value * unit, _scale.short_count(value)) for value in (0.0, ticks[-1])]
    for index, row in enumerate(rows):
        tall = _scale.whole(row.get(name)) * unit
        words = f"{row.get('start')}: {_scale.count(row.get(name))} {name}"
        place = _column_place(index, rows) | {"y": f"{height - max(tall, 1.5):.1f}", "height": f"{max(tall, 1.5):.1f}"}
        if tall:
            shapes.append(tag("rect", tag("title", words), class_=f"bar {tone}".strip(), **place))
    if clock:
        labels = _scale.clock_labels([row.get("start") for row in rows])
        most = min(_MOST_LABELS, max(1, _MOST_LABELS * len(rows) // _slots(rows)))  # a few columns fill only a part of the width
        for number, index in enumerate(_scale.pick(len(rows), most)):
            shapes.append(_label(index / _slots(rows), height + 16, labels[index], "wide" if number % 2 else ""))
    total = _scale.count(sum(_scale.whole(row.get(name)) for row in rows))
    title = f"{name.capitalize()} over time"
    return chart(height + (_AXIS if clock else 0), title, f"{total} {name} in {len(rows)} spans of time.", *shapes)


def _column_place(index: int, rows: Sequence[object]) -> dict[str, str]:
    width = 1 / _slots(rows)
    return {"x": percent((index + 0.14) * width), "width": percent(0.72 * width)}


# ---- streams -----------------------------------------------------------------------------------------------------------------


def histogram(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Return a column for each range of streams; its height is the number of connections, which stands above it."""
    height = 170.0
    unit = (height - _TOP - 4) / max([_scale.whole(row.get("connections")) for row in rows] + [1])
    slots = max(len(rows), 6)
    shown = set(_scale.pick(len(rows), 12))
    shapes = [tag("line", class_="base", x1="0", x2="100%", y1=f"{height:g}", y2=f"{height:g}")]
    for index, row in enumerate(rows):
        left, connections = index / slots, _scale.whole(row.get("connections"))
        tall = max(connections * unit, 1.5 if connections else 0.0)
        place = {"x": percent(left + 0.08 / slots), "width": percent(0.84 / slots), "y": f"{height - tall:.1f}", "height": f"{tall:.1f}"}
        words = f"{streams_name(row)}: {_scale.count(connections)}"
        shapes.append(tag("rect", tag("title", words), class_="bar", **place, rx="1.5"))
        if index in shown:
            shapes.append(_label(left + 0.5 / slots, height - tall - 5, _scale.short_count(connections), "value"))
            shapes.append(_label(left, height + 16, _scale.short_count(row.get("low")), "wide" if len(shown) > 6 and index % 2 else ""))
    if rows and rows[-1].get("high") != rows[-1].get("low"):
        shapes.append(_label(len(rows) / slots, height + 16, _scale.short_count(rows[-1].get("high")), "last"))
    words = "; ".join(f"{streams_name(row)} streams: {_scale.count(row.get('connections'))} connections" for row in rows)
    return chart(height + _AXIS, "Streams per HTTP/2 connection", words, *shapes)


def streams_name(row: Mapping[str, Any]) -> str:
    """Return the range of streams of a row of the histogram."""
    low, high = _scale.count(row.get("low")), _scale.count(row.get("high"))
    return low if low == high else f"{low}–{high}"


# ---- pieces ------------------------------------------------------------------------------------------------------------------


def _slots(rows: Sequence[object]) -> int:
    """Return the number of columns that have room: a few more than there are, so that a single one is not as wide as the page."""
    return max(len(rows), _FEWEST_SLOTS)


def _upright(place: float, top: float, bottom: float, class_: str) -> Markup:
    return tag("line", class_=class_, x1=percent(place), x2=percent(place), y1=f"{top:g}", y2=f"{bottom:g}")


def _level(y: float, label: str) -> Markup:
    line = tag("line", class_="grid", x1="0", x2="100%", y1=f"{y:.1f}", y2=f"{y:.1f}")
    return join_markup([line, tag("text", label, class_="level", x="-8", y=f"{y + 4:.1f}")])


def _label(place: float, y: float, words: str, class_: str = "") -> Markup:
    """Return a label at a place; the labels at the two ends stay within the chart."""
    side = "start" if place < 0.02 else "end" if place > 0.98 else "mid"
    return tag("text", words, class_=f"label {side} {class_}".strip(), x=percent(place), y=f"{y:.1f}")
