"""The timeline of one tree of transactions, as rows of a table.

Invariant: every transaction that is shown stands below its parent, and what is not shown is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from trio_tsconnect.logstats import _scale
from trio_tsconnect.logstats._charts import percent
from trio_tsconnect.logstats._markup import Markup, tag

_MOST_ROWS = 200
_DEEPEST = 12
_HEIGHT = 26

STATES: dict[str, tuple[str, str]] = {
    "read_request": ("client", "read request"),
    "remap": ("proxy", "remap"),
    "acquire_origin": ("acquire", "acquire origin"),
    "send_request": ("send", "send request"),
    "read_response": ("origin", "wait for origin"),
    "send_response": ("client2", "send response"),
    "tunnel": ("tunnel", "tunnel"),
    "release": ("release", "release"),
}
"""The class of each state, which gives its tone, and its name for readers."""


@attrs.frozen(kw_only=True)
class Axis:
    """The time that a timeline spans."""

    start: float
    """The moment at its left end, in seconds."""
    length: float
    """The seconds to its right end."""

    def place(self, value: float) -> float:
        """Return where a moment is: 0 at the left end, 1 at the right end."""
        return (value - self.start) / self.length if self.length > 0 else 0.0

    def ticks(self) -> list[float]:
        """Return a few moments in round steps from the start."""
        return [value for value in _scale.linear_ticks(self.length, 5) if value <= self.length * 1.000001]


def walk(tree: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield each transaction with its depth, parents first. Children are in the order in which they are given."""
    waiting = [(0, tree)]
    while waiting:
        depth, node = waiting.pop()
        yield depth, node
        waiting.extend((depth + 1, child) for child in reversed(node.get("children") or ()))


def begin_of(node: Mapping[str, Any]) -> float:
    """Return the start of a transaction or state; it may be any finite number."""
    value = node.get("start")
    return float(value) if isinstance(value, int | float) and abs(value) < 1e15 else 0.0


def axis_of(nodes: Sequence[Mapping[str, Any]]) -> Axis:
    """Return the axis from the first start to the last end."""
    start = min(begin_of(node) for node in nodes)
    end = max(begin_of(node) + (_scale.finite(node.get("seconds")) or 0.0) for node in nodes)
    return Axis(start=start, length=min(end - start, 1e15))


def timeline(tree: Mapping[str, Any]) -> Markup:
    """Return the table: a row for each transaction, with its states as a bar. Rows on the critical path are marked."""
    rows = list(walk(tree))
    shown = rows[:_MOST_ROWS]
    axis = axis_of([node for _, node in shown])
    ticks = [
        tag(
            "text",
            _scale.tick_seconds(value) if value else "0",
            class_=f"label {_side(value, axis)}",
            x=percent(value / axis.length),
            y="12",
        )
        for value in axis.ticks()
        if axis.length > 0
    ]
    ruler = tag("svg", *ticks, class_="chart lane", aria_hidden="true", width="100%", height="16")
    head = tag(
        "tr",
        tag("th", "transaction", scope="col"),
        tag("th", ruler, scope="col", class_="plot"),
        tag("th", "time", scope="col", class_="n"),
    )
    body = [_row(depth, node, axis) for depth, node in shown]
    table = tag("table", tag("thead", head), tag("tbody", *body), class_="timeline")
    more = (
        tag("p", f"{_scale.count(len(rows) - len(shown))} more transactions are not shown.", class_="note")
        if len(rows) > len(shown)
        else ""
    )
    return tag("div", table, _legend([node for _, node in shown]), more)


def _side(value: float, axis: Axis) -> str:
    place = value / axis.length
    return "start" if place < 0.02 else "end" if place > 0.98 else "mid"


def _row(depth: int, node: Mapping[str, Any], axis: Axis) -> Markup:
    critical = bool(node.get("critical"))
    mark = tag("span", "◆ ", class_="mark", title="on the critical path") if critical else ""
    name = f"#{_scale.count(node.get('transaction')).replace(',', '')} "
    label = tag("span", mark, tag("b", name), node.get("label"), class_=f"indent d{min(depth, _DEEPEST)}")
    cells = [
        tag("th", label, scope="row"),
        tag("td", _lane(node, axis, critical), class_="plot"),
        tag("td", _scale.seconds(node.get("seconds")), class_="n"),
    ]
    return tag("tr", *cells, class_="critical" if critical else None)


def _lane(node: Mapping[str, Any], axis: Axis, critical: bool) -> Markup:
    begin, length = begin_of(node), _scale.finite(node.get("seconds")) or 0.0
    top, tall = (6, 14) if critical else (9, 8)
    left = axis.place(begin)
    shapes = [
        tag("line", class_="grid", x1=percent(value / axis.length), x2=percent(value / axis.length), y1="0", y2=str(_HEIGHT))
        for value in axis.ticks()
        if axis.length > 0
    ]
    shapes.append(tag("rect", class_="state least", x=percent(min(left, 0.995)), width="2", y=str(top), height=str(tall)))
    shapes.append(tag("rect", class_="state", x=percent(left), width=_wide(left, length, axis), y=str(top), height=str(tall)))
    states = node.get("states") or ()
    first = begin_of(states[0]) if states else 0.0
    for state in states:
        place = axis.place(begin + begin_of(state) - first)
        kind, words = _state(state)
        title = tag("title", f"{words}: {_scale.seconds(state.get('seconds'))}")
        wide = _wide(place, _scale.finite(state.get("seconds")) or 0.0, axis)
        shapes.append(tag("rect", title, class_=f"state {kind}".strip(), x=percent(place), width=wide, y=str(top), height=str(tall)))
    if critical:
        shapes.append(tag("rect", class_="path", x=percent(left), width=_wide(left, length, axis), y=str(top + tall + 2), height="2"))
    return tag("svg", *shapes, class_="chart lane", aria_hidden="true", width="100%", height=str(_HEIGHT))


def _wide(place: float, length: float, axis: Axis) -> str:
    """Return a width that ends within the lane."""
    return percent(min(length / axis.length if axis.length > 0 else 0.0, 1 - max(place, 0.0)))


def _state(state: Mapping[str, Any]) -> tuple[str, str]:
    """Return the class of a state and its words; a state that is not known gets the neutral tone."""
    name = state.get("name")
    return STATES.get(name, ("", name)) if isinstance(name, str) else ("", str(name))


def _legend(nodes: Sequence[Mapping[str, Any]]) -> Markup:
    """Return what each tone means, in the order of the states, for those that occur."""
    there = {state["name"] for node in nodes for state in node.get("states") or () if isinstance(state.get("name"), str)}
    known = [
        tag(
            "li",
            tag("svg", tag("rect", class_=f"state {kind}", width="10", height="10", rx="2"), class_="swatch", width="10", height="10"),
            words,
        )
        for name, (kind, words) in STATES.items()
        if name in there
    ]
    path = tag("li", tag("span", "◆", class_="mark"), "critical path", class_="path")
    return tag("ul", path, *known, class_="legend")
